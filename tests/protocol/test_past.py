"""Tags, retention and trash of a real daemon, by command and by route."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from diffkeeper import limits
from diffkeeper.service.history_service import RETENTION_TURN_SECONDS
from diffkeeper.store import tables
from diffkeeper.store.store import Store
from tests.support import disks
from tests.support.daemon import package_environment, tcp, write_states
from tests.support.odd import leased

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def parsed(ended: subprocess.CompletedProcess[str], code: int = 0) -> Any:
    assert ended.returncode == code, ended.stderr
    return json.loads(ended.stdout)


def said(ended: subprocess.CompletedProcess[str], code: int) -> str:
    """What a command that must fail with this exit code says."""
    assert ended.returncode == code, (ended.stdout, ended.stderr)
    return ended.stderr


def seqs(daemon: Daemon, volume: str = "v") -> list[int]:
    return [s["seq"] for s in daemon.admin("GET", f"/v1/volumes/{volume}/snapshots")]


def test_tags(daemon: Daemon) -> None:
    taken = write_states(daemon, 4)
    tagged = parsed(daemon.cli("--json", "tag", f"v@{taken[1]}", "good"))
    assert (tagged["seq"], tagged["tags"]) == (taken[1], ["good"])
    assert daemon.cli("tag", "v@good", "better").returncode == 0
    assert daemon.cli("tag", "v", "newest").returncode == 0
    assert "untag v good" in said(daemon.cli("tag", f"v@{taken[2]}", "good"), 4)
    for bad in ("latest", "17", "deadbeef", "a b", "-x"):
        assert said(daemon.cli("tag", "v", "--", bad), 2)
    listed = daemon.cli("snapshots", "v").stdout
    assert "TAGS" in listed
    assert "better, good" in listed
    status = daemon.ok("Get", Name="v")["Volume"]["Status"]
    assert status["tags"] == {"better": taken[1], "good": taken[1], "newest": taken[3]}
    target = daemon.base / "good"
    assert daemon.cli("restore", "v@good", "--to", str(target)).returncode == 0
    assert (target / "a").read_text() == "v 1\n"
    assert parsed(daemon.cli("--json", "verify", "v@good"))["seq"] == taken[1]
    daemon.stop(9)
    daemon.start()
    assert daemon.cli("untag", "v", "good").returncode == 0
    assert said(daemon.cli("untag", "v", "good"), 3)
    assert said(daemon.cli("untag", "v", "latest"), 2)
    assert said(daemon.cli("verify", "v@good"), 3)
    assert daemon.admin("GET", f"/v1/volumes/v/resolve?snapshot={taken[1]}")["tags"] == ["better"]


def test_forget(daemon: Daemon) -> None:
    taken = write_states(daemon, 6)
    assert daemon.cli("tag", f"v@{taken[2]}", "good").returncode == 0
    before = seqs(daemon)
    for refused, why in (
        (f"v@{taken[-1]}", "newest"),
        ("v@latest", "newest"),
        ("v@good", "tagged good"),
    ):
        message = said(daemon.cli("forget", f"v@{taken[0]}", refused), 4)
        assert why in message
        assert "nothing was forgotten" in message
    assert "one volume" in said(daemon.cli("forget", f"v@{taken[0]}", "w@1"), 2)
    assert "which" in said(daemon.cli("forget", "v"), 2)
    assert said(daemon.cli("forget", "v@999"), 3)
    assert seqs(daemon) == before
    done = parsed(daemon.cli("--json", "forget", f"v@{taken[0]}", f"v@{taken[3]}"))
    assert done == {"forgotten": [taken[0], taken[3]]}
    assert seqs(daemon) == [s for s in before if s not in (taken[0], taken[3])]
    assert "was forgotten" in said(daemon.cli("verify", f"v@{taken[0]}"), 3)
    status = daemon.ok("Get", Name="v")["Volume"]["Status"]
    assert status["snapshots"] == len(before) - 2
    daemon.stop(9)
    daemon.start()
    assert seqs(daemon) == [s for s in before if s not in (taken[0], taken[3])]
    deadline = time.monotonic() + 20
    while daemon.admin("GET", "/v1/volumes/v")["status"]["snapshots"] != len(before) - 2:
        assert time.monotonic() < deadline, "they are not counted"
        time.sleep(0.1)


def test_the_snapshot_argument_by_time(daemon: Daemon) -> None:
    taken = write_states(daemon, 2)
    listed = {s["seq"]: s for s in daemon.admin("GET", "/v1/volumes/v/snapshots")}
    for reference in (listed[taken[0]]["time"], f"{listed[taken[0]]['time'][:-1]}+00:00"):
        target = daemon.base / f"at-{len(reference)}"
        result = parsed(daemon.cli("--json", "restore", f"v@{reference}", "--to", str(target)))
        assert result["snapshot"]["seq"] == taken[0]
    for reference in ("latest", "-0s", "2999-01-01", "2999-01-01T10:00"):
        assert parsed(daemon.cli("--json", "verify", f"v@{reference}"))["seq"] == taken[1]
    for reference in ("-1h", "2001-01-01"):
        assert said(daemon.cli("verify", f"v@{reference}"), 3)
    for reference in ("2026-99-01", "-5", "a/b", "HEAD~1"):
        assert "-5m" in said(daemon.cli("verify", f"v@{reference}"), 2) or "no moment" in said(
            daemon.cli("verify", f"v@{reference}"), 2
        )


def test_retention_works_by_itself_and_on_demand(daemon: Daemon) -> None:
    """Five seconds old snapshots are thinned to one in two seconds, ten seconds old ones go."""
    taken = write_states(daemon, 8, retention="1s:all,10s:2s")
    assert daemon.cli("tag", f"v@{taken[1]}", "good").returncode == 0
    plan = parsed(daemon.cli("--json", "prune", "v", "--dry-run"))[0]
    assert (plan["volume"], plan["retention"]) == ("v", "1s:all,10s:2s")
    deadline = time.monotonic() + 40
    while seqs(daemon) != [taken[1], taken[-1]]:
        assert time.monotonic() < deadline, seqs(daemon)
        time.sleep(0.5)
    assert (metric(daemon, "forgotten_total", volume="v") or 0) >= len(taken) - 2
    assert daemon.cli("untag", "v", "good").returncode == 0
    dry = daemon.cli("prune", "--dry-run")
    assert dry.returncode == 0
    assert "RETENTION" in dry.stdout
    assert daemon.cli("prune", "v").returncode == 0
    assert seqs(daemon) == [taken[-1]]
    assert daemon.admin("GET", "/v1/volumes/v")["status"]["snapshots"] == 1
    assert parsed(daemon.cli("--json", "verify", "v"))["ok"] is True
    assert said(daemon.cli("prune", "nobody"), 3)


def metric(daemon: Daemon, name: str, **labels: str) -> float | None:
    """The value of a series; None where there is none."""
    status, page = tcp(daemon, "GET", "/metrics")
    assert status == 200
    found = [
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == f"diffkeeper_{name}" and labels.items() <= sample.labels.items()
    ]
    assert len(found) < 2, found
    return found[0] if found else None


def turned(daemon: Daemon) -> None:
    """Retention and trash had at least one turn since."""
    time.sleep(RETENTION_TURN_SECONDS + 2)


def test_nothing_goes_by_itself_after_weeks_away(new_daemon: Callable[..., Daemon]) -> None:
    """The daemon finds that it ran a month ago; it says so, and commands do as they are told."""
    daemon = new_daemon("--trash", "1s")
    daemon.start()
    taken = write_states(daemon, 6, retention="1s:all,4s:2s")
    write_states(daemon, 2, "w")
    remove(daemon, "w")
    daemon.ok("Unmount", Name="v", ID="w")
    daemon.stop()
    kept = ago(daemon, 30)
    daemon.start()
    turned(daemon)
    assert "clock_ahead seconds=" in daemon.log
    assert seqs(daemon) == kept
    assert [each["name"] for each in daemon.admin("GET", "/v1/trash")] == ["w"]
    status = daemon.ok("Get", Name="v")["Volume"]["Status"]
    assert status["retention"] == "1s:all,4s:2s"
    assert status["retention_note"].startswith("29d of the clock's time passed unseen")
    (found,) = (f for f in daemon.admin("GET", "/v1/doctor") if f["name"] == "clock")
    assert (found["result"], found["found"][:3]) == ("warn", "29d")
    assert (metric(daemon, "clock_unseen_seconds") or 0) > 29 * 86_400
    assert metric(daemon, "trash_volumes") == 1
    assert metric(daemon, "trash_bytes") == len("w 1\n")
    assert 86_000 < (metric(daemon, "trash_next_purge_seconds") or 0) <= 86_400
    assert metric(daemon, "trouble") == 0
    dry = daemon.cli("prune", "v", "--dry-run")
    assert "warning: all of it counts for this command: 29d" in dry.stderr
    pruned = daemon.cli("--json", "prune", "v")
    assert "warning: all of it counts" in pruned.stderr
    assert parsed(pruned)[0]["forgotten"][:1] == taken[:1]
    assert seqs(daemon) == kept[-1:]
    assert metric(daemon, "forgotten_total", volume="v") == len(kept) - 1
    assert daemon.cli("empty-trash", "--yes").returncode == 0
    assert metric(daemon, "purged_total") == 1
    assert metric(daemon, "trash_volumes") == 0
    assert metric(daemon, "trash_next_purge_seconds") is None


def ago(daemon: Daemon, days: int) -> list[int]:
    """Make the stopped daemon's store one that was used so many days ago; snapshots of `v`."""
    store = Store.open(str(daemon.state_dir / "store"), reserve_bytes=0)
    wall = store.numbers.get(tables.META_CLOCK_WALL)
    assert wall is not None, "the daemon has stored no look at the clock"
    store.numbers.put({tables.META_CLOCK_WALL: wall - days * 86_400 * 10**9}, "clock")
    (record,) = (each for each in store.volumes() if each.name == "v")
    kept = [each.seq for each in store.snapshots(record.id)]
    store.close()
    return kept


def test_a_daemon_that_is_started_anew_goes_on_thinning(daemon: Daemon) -> None:
    taken = write_states(daemon, 4, retention="1s:all,4s:2s")
    daemon.stop(9)
    daemon.start()
    deadline = time.monotonic() + 40
    while seqs(daemon) != taken[-1:]:
        assert time.monotonic() < deadline, seqs(daemon)
        time.sleep(0.5)
    status = daemon.ok("Get", Name="v")["Volume"]["Status"]
    assert status["retention_note"] == ""
    assert metric(daemon, "clock_unseen_seconds") == 0
    findings = {f["name"]: f["result"] for f in daemon.admin("GET", "/v1/doctor")}
    assert findings["clock"] == "ok"


def test_the_default_is_a_setting(new_daemon: Callable[..., Daemon]) -> None:
    daemon = new_daemon("--retention", "1h:all", "--trash", "2d")
    daemon.start()
    daemon.ok("Create", Name="v", Opts={})
    daemon.ok("Create", Name="w", Opts={"retention": "all"})
    plan = {each["volume"]: each for each in daemon.admin("POST", "/v1/prune", {"dry_run": True})}
    assert {name: each["retention"] for name, each in plan.items()} == {"v": "1h:all", "w": "all"}
    for setting, value in (("--retention", "1h"), ("--trash", "-1d"), ("--trash", "9999d")):
        process = new_daemon(setting, value).spawn()
        assert process.wait(60) == 2


def remove(daemon: Daemon, volume: str = "v") -> None:
    daemon.ok("Unmount", Name=volume, ID="w")
    daemon.ok("Remove", Name=volume)


def test_undelete(daemon: Daemon) -> None:
    taken = write_states(daemon, 3, mode="0750")
    assert daemon.cli("tag", f"v@{taken[0]}", "good").returncode == 0
    mountpoint = Path(daemon.ok("Path", Name="v")["Mountpoint"])
    (mountpoint / "a").write_text("written last\n")
    number = daemon.admin("GET", "/v1/volumes/v")["status"]["id"]
    remove(daemon)
    assert daemon.ok("List")["Volumes"] == []
    assert said(daemon.cli("inspect", "v"), 3)
    (found,) = parsed(daemon.cli("--json", "trash"))
    assert (found["name"], found["id"], found["live"]) == ("v", number, False)
    assert found["bytes"] == len("written last\n")
    assert found["removed"] < found["purge"]
    assert "v " in daemon.cli("trash").stdout
    daemon.stop(9)
    daemon.start()
    back = parsed(daemon.cli("--json", "undelete", "v"))
    assert (back["name"], back["options"]["mode"]) == ("v", "0750")
    assert back["status"]["tags"] == {"good": taken[0]}
    assert back["status"]["snapshots"] == found["snapshots"] == len(seqs(daemon))
    assert parsed(daemon.cli("--json", "trash")) == []
    mountpoint = Path(daemon.ok("Mount", Name="v", ID="x")["Mountpoint"])
    assert (mountpoint / "a").read_text() == "written last\n"
    recovery = daemon.admin("GET", "/v1/volumes/v")["status"]["last_recovery"]
    assert recovery["kind"] == "replay"
    (mountpoint / "a").write_text("written later\n")
    later = parsed(daemon.cli("--json", "snapshot", "v"))
    assert later["seq"] == found["snapshots"] + 1
    assert daemon.cli("verify", "v").returncode == 0


def test_a_name_can_be_used_again_at_once(daemon: Daemon) -> None:
    for number in range(2):
        write_states(daemon, 1)
        remove(daemon)
        assert len(daemon.admin("GET", "/v1/trash")) == number + 1
    write_states(daemon, 1)
    first, second = daemon.admin("GET", "/v1/trash")
    message = said(daemon.cli("undelete", "v"), 4)
    assert str(first["id"]) in message
    assert str(second["id"]) in message
    assert "--as NAME" in said(daemon.cli("undelete", str(first["id"])), 4)
    assert daemon.cli("undelete", str(first["id"]), "--as", "old").returncode == 0
    assert "--as NAME" in said(daemon.cli("undelete", "v"), 4)
    assert said(daemon.cli("undelete", "v", "--as", "../x"), 2)
    assert said(daemon.cli("undelete", "nobody"), 3)
    assert {v["Name"] for v in daemon.ok("List")["Volumes"]} == {"v", "old"}
    assert "say --yes" in said(daemon.cli("empty-trash"), 2)
    assert len(daemon.admin("GET", "/v1/trash")) == 1
    assert parsed(daemon.cli("--json", "empty-trash", "v", "--yes"))[0]["id"] == second["id"]
    assert said(daemon.cli("empty-trash", "v", "--yes"), 3)
    assert parsed(daemon.cli("--json", "empty-trash", "--yes")) == []
    assert not (daemon.state_dir / "volumes" / str(second["id"])).exists()
    daemon.stop(9)
    daemon.start()
    assert daemon.admin("GET", "/v1/trash") == []
    assert {v["Name"] for v in daemon.ok("List")["Volumes"]} == {"v", "old"}


def test_a_person_is_asked(daemon: Daemon) -> None:
    write_states(daemon, 1)
    remove(daemon)
    command = [sys.executable, "-m", "diffkeeper", "--socket", daemon.path, "empty-trash"]
    for answer, code, left in ((b"n\n", 2, 1), (b"\n", 2, 1), (b"y\n", 0, 0)):
        typed, terminal = pty.openpty()
        try:
            os.write(typed, answer)
            ended = subprocess.run(
                command,
                stdin=terminal,
                env=package_environment(),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        finally:
            os.close(typed)
            os.close(terminal)
        assert ended.returncode == code, ended.stderr
        assert "for good? [y/N]" in ended.stderr
        assert len(daemon.admin("GET", "/v1/trash")) == left


def await_purge(daemon: Daemon, volume: str) -> None:
    """Until a removed volume is deleted for good."""
    deadline = time.monotonic() + 20
    while f"purged volume={volume}" not in daemon.log:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_the_trash_empties_itself(new_daemon: Callable[..., Daemon]) -> None:
    daemon = new_daemon("--trash", "0s")
    daemon.start()
    write_states(daemon, 3)
    remove(daemon)
    assert len(daemon.admin("GET", "/v1/trash")) == 1
    daemon.stop(9)
    daemon.start()
    await_purge(daemon, "v")
    assert daemon.admin("GET", "/v1/trash") == []
    assert daemon.admin("GET", "/v1/stats")["snapshots"] == 0


def test_each_removed_volume_stays_for_a_time_of_its_own(daemon: Daemon) -> None:
    nameless = "0123456789abcdef" * 4
    for name, options in (
        ("v", {"trash": "30d"}),
        ("w", {}),
        (nameless, {}),
        ("x", {"trash": "9d"}),
    ):
        write_states(daemon, 1, name, **options)
    assert daemon.cli("set", "x", "trash=off").returncode == 0
    daemon.stop()
    daemon.start()
    for name in ("v", "w", nameless, "x"):
        remove(daemon, name)
    ends = {each["name"]: each["purge"] for each in daemon.admin("GET", "/v1/trash")}
    assert ends["x"] < ends[nameless] < ends["w"] < ends["v"]
    daemon.stop(9)
    daemon.start()
    await_purge(daemon, "x")
    assert {each["name"] for each in daemon.admin("GET", "/v1/trash")} == {"v", "w", nameless}
    assert metric(daemon, "trash_max_bytes") == daemon.admin("GET", "/v1/stats")["trash_max_bytes"]


def test_what_cannot_be_captured_is_kept_as_it_is(
    new_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """On a full disk a volume can be removed; its live directory stays in the trash with it."""
    with disks.file_system("ext4", tmp_path, 128 * limits.MIB) as disk:
        daemon = new_daemon("--state-dir", str(disk / "state"))
        daemon.start()
        write_states(daemon, 2)
        mountpoint = Path(daemon.ok("Path", Name="v")["Mountpoint"])
        content = os.urandom(8 * limits.MIB)
        (mountpoint / "large").write_bytes(content)
        disks.fill(disk / "filler")
        remove(daemon)
        assert "remove_capture_failed" in daemon.log
        daemon.stop(9)
        daemon.start()
        (found,) = daemon.admin("GET", "/v1/trash")
        assert found["live"] is True
        assert "kept: not captured whole" in daemon.cli("trash").stdout
        assert daemon.cli("undelete", "v").returncode == 0
        mountpoint = Path(daemon.ok("Mount", Name="v", ID="w")["Mountpoint"])
        assert (mountpoint / "large").read_bytes() == content
        assert daemon.admin("GET", "/v1/volumes/v")["status"]["last_recovery"]["kind"] == "live"
        (disk / "filler").unlink()
        assert daemon.cli("snapshot", "v").returncode == 0
        remove(daemon)
        (found,) = daemon.admin("GET", "/v1/trash")
        assert found["live"] is False
        daemon.stop()


def test_what_lacks_a_file_is_kept_as_it_is(daemon: Daemon) -> None:
    """A file cannot be read while its volume is removed: told at once, and the directory stays."""
    write_states(daemon, 1)
    status = daemon.admin("GET", "/v1/volumes/v")["status"]
    live = Path(status["live"])
    (live / "held").write_bytes(b"not recorded")
    with leased(live / "held"):
        daemon.admin("POST", "/v1/volumes/v/snapshots", {}, status=201)
        status = daemon.admin("GET", "/v1/volumes/v")["status"]
        assert "'held' (another process holds a lease on it)" in status["last_snapshot"]["cause"]
        assert any("'held'" in trouble for trouble in status["trouble"])
        assert "'held'" in daemon.cli("doctor").stdout
        daemon.ok("Unmount", Name="v", ID="w")
        daemon.ok("Remove", Name="v")
    (found,) = daemon.admin("GET", "/v1/trash")
    assert found["live"] is True
    assert daemon.cli("undelete", "v").returncode == 0
    mountpoint = Path(daemon.ok("Mount", Name="v", ID="w")["Mountpoint"])
    assert (mountpoint / "held").read_bytes() == b"not recorded"
    daemon.admin("POST", "/v1/volumes/v/snapshots", {}, status=201)
    status = daemon.admin("GET", "/v1/volumes/v")["status"]
    assert (status["last_snapshot"]["consistency"], status["trouble"]) == ("crash", [])


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/volumes/nobody/tags", {"tag": "t"}, 404),
        ("POST", "/v1/volumes/nobody/tags", {"tag": "latest"}, 400),
        ("POST", "/v1/volumes/nobody/tags", {"tag": 1}, 400),
        ("POST", "/v1/volumes/nobody/tags", {"tag": "t", "snapshot": 1}, 400),
        ("POST", "/v1/volumes/nobody/tags", {"tag": "t", "more": 1}, 400),
        ("POST", "/v1/volumes/.x/tags", {"tag": "t"}, 400),
        ("DELETE", "/v1/volumes/nobody/tags/t", None, 404),
        ("DELETE", "/v1/volumes/nobody/tags/a%2fb", None, 400),
        ("DELETE", "/v1/volumes/nobody/tags/%ff", None, 400),
        ("GET", "/v1/volumes/nobody/tags", None, 405),
        ("POST", "/v1/volumes/nobody/forget", {"snapshots": ["1"]}, 404),
        ("POST", "/v1/volumes/nobody/forget", {"snapshots": []}, 400),
        ("POST", "/v1/volumes/nobody/forget", {"snapshots": "1"}, 400),
        ("POST", "/v1/volumes/nobody/forget", {"snapshots": [1]}, 400),
        ("POST", "/v1/volumes/nobody/forget", {"snapshots": ["1"] * 1001}, 400),
        ("POST", "/v1/volumes/nobody/forget", [], 400),
        ("POST", "/v1/prune", {"volume": "nobody"}, 404),
        ("POST", "/v1/prune", {"volume": "../x"}, 400),
        ("POST", "/v1/prune", {"dry_run": "yes"}, 400),
        ("POST", "/v1/prune", {"dry-run": True}, 400),
        ("POST", "/v1/trash", {}, 405),
        ("DELETE", "/v1/trash/nobody", None, 404),
        ("DELETE", "/v1/trash/.hidden", None, 400),
        ("DELETE", "/v1/trash/1", None, 404),
        ("DELETE", "/v1/trash", {"name": "x"}, 400),
        ("POST", "/v1/trash/nobody/undelete", {}, 404),
        ("POST", "/v1/trash/nobody/undelete", {"as": "a/b"}, 400),
        ("POST", "/v1/trash/nobody/undelete", {"as": 1}, 400),
        ("POST", "/v1/trash/nobody/undelete", {"to": "x"}, 400),
        ("POST", f"/v1/trash/{'1' * 300}/undelete", {}, 400),
    ],
)
def test_errors(shared: Daemon, method: str, path: str, body: object, status: int) -> None:
    answer = shared.admin(method, path, body, status)
    assert answer["Err"]
    assert len(answer["Err"]) < 500
    assert shared.admin("GET", "/v1/trash") == []
