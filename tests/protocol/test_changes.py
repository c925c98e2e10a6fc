"""Options and names of volumes that are there, changed by command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from diffkeeper.errors import InvalidInputError
from diffkeeper.volumes import options

if TYPE_CHECKING:
    import subprocess

    from tests.support.daemon import Daemon


def parsed(ended: subprocess.CompletedProcess[str], code: int = 0) -> Any:
    assert ended.returncode == code, ended.stderr
    return json.loads(ended.stdout)


def status(daemon: Daemon, volume: str = "vol") -> dict[str, Any]:
    found: dict[str, Any] = daemon.ok("Get", Name=volume)["Volume"]["Status"]
    return found


def test_options_are_set_while_the_volume_is_mounted(daemon: Daemon) -> None:
    created = {"interval": "1h", "capture": "scan", "chunk-size": "64KiB"}
    daemon.ok("Create", Name="vol", Opts=created)
    daemon.live("vol", {"before": b"before"})
    assert daemon.cli("snapshot", "vol").returncode == 0
    assert status(daemon)["capture"]["source"] == "scan"
    live = Path(daemon.ok("Path", Name="vol")["Mountpoint"])
    (live / "between").write_bytes(b"between")
    found = parsed(
        daemon.cli("set", "vol", "interval=2h", "capture=inotify", "retention=5m:all", "--json")
    )
    wanted = {"interval": "2h", "capture": "inotify", "retention": "5m:all", "chunk-size": "64KiB"}
    assert found["options"] == wanted
    shown = status(daemon)
    assert (shown["capture"]["interval"], shown["retention"]) == ("2h", "5m:all")
    assert shown["capture"]["source"] == "inotify"
    (live / "after").write_bytes(b"after")
    newest = parsed(daemon.cli("snapshot", "vol", "--json"))
    assert newest["files"] == 3, "what was written before, and after"
    assert daemon.cli("verify", "vol").returncode == 0
    daemon.stop(9)
    daemon.start()
    assert parsed(daemon.cli("inspect", "vol", "--json"))["options"] == wanted
    assert status(daemon)["capture"]["interval"] == "2h"
    text = daemon.cli("set", "vol", "interval=", "capture=", "retention=").stdout
    assert text == "vol has chunk-size=64KiB\n"
    assert status(daemon)["capture"]["interval"] == "1s"


def test_what_cannot_be_set_changes_nothing(daemon: Daemon) -> None:
    daemon.ok("Create", Name="vol", Opts={"interval": "1h", "chunk-size": "64KiB"})
    for given, code, told in (
        (("interval=2h", "chunk-size=4KiB"), 2, "fixed"),
        (("chunk-size=",), 2, "to be set: interval, capture"),
        (("interval=2h", "freeze-max=soon"), 2, "freeze-max"),
        (("interval=2h", "colour=red"), 2, "unknown option"),
        (("colour=",), 2, "unknown option"),
        (("interval",), 2, "OPTION=VALUE"),
    ):
        ended = daemon.cli("set", "vol", *given)
        assert (ended.returncode, told in ended.stderr) == (code, True), ended.stderr
    assert daemon.cli("set", "other", "interval=2h").returncode == 3
    assert daemon.cli("set", "vol", "chunk-size=64KiB").returncode == 0, "as it is"
    assert status(daemon)["capture"]["interval"] == "1h"
    bodies: list[object] = [{}, {"options": {}}, {"options": ["x"]}, {"options": {"verify": 1}}]
    for body in [*bodies, {"x": 1}]:
        daemon.admin("POST", "/v1/volumes/vol/options", body, 400)


def test_create_with_other_options_names_the_command(daemon: Daemon) -> None:
    daemon.ok("Create", Name="vol", Opts={"interval": "1h", "chunk-size": "64KiB"})
    daemon.ok("Create", Name="vol", Opts={"interval": "1h", "chunk-size": "64KiB"})
    told = daemon.call("Create", Name="vol", Opts={"verify": "off", "chunk-size": "4KiB"}).err
    assert "chunk-size is '64KiB', not '4KiB'" in told
    assert told.endswith("diffkeeper set vol interval= verify=off")
    told = daemon.call("Create", Name="vol", Opts={"interval": "1h"}).err
    assert "chunk-size is '64KiB', not its default" in told
    assert "diffkeeper set" not in told
    assert daemon.cli("set", "vol", "interval=", "verify=off").returncode == 0
    daemon.ok("Create", Name="vol", Opts={"verify": "off", "chunk-size": "64KiB"})


def test_a_volume_gets_another_name(daemon: Daemon) -> None:
    daemon.ok("Create", Name="old", Opts={"interval": "1h"})
    daemon.ok("Create", Name="taken")
    daemon.live("old", {"a": b"kept"})
    first = parsed(daemon.cli("snapshot", "old", "--json"))
    assert daemon.cli("tag", "old", "good").returncode == 0
    ended = daemon.cli("rename", "old", "new")
    assert (ended.returncode, "in use" in ended.stderr) == (4, True)
    daemon.ok("Unmount", Name="old", ID="w")
    assert daemon.cli("rename", "old", "taken").returncode == 4
    assert daemon.cli("rename", "none", "new").returncode == 3
    assert daemon.cli("rename", "old", "a/b").returncode == 2
    assert parsed(daemon.cli("rename", "old", "new", "--json"))["name"] == "new"
    for _ in range(2):
        assert sorted(v["Name"] for v in daemon.ok("List")["Volumes"]) == ["new", "taken"]
        assert "no volume 'old'" in daemon.call("Get", Name="old").err
        seqs = [each["seq"] for each in parsed(daemon.cli("snapshots", "new", "--json"))]
        assert first["seq"] in seqs
        daemon.stop(9)
        daemon.start()
    live = Path(daemon.ok("Mount", Name="new", ID="w")["Mountpoint"])
    assert (live / "a").read_bytes() == b"kept"
    assert status(daemon, "new")["tags"] == {"good": first["seq"]}
    daemon.ok("Unmount", Name="new", ID="w")
    daemon.ok("Create", Name="old")
    assert not list(Path(daemon.ok("Mount", Name="old", ID="w")["Mountpoint"]).iterdir())
    daemon.ok("Remove", Name="new")
    assert daemon.cli("undelete", "new").returncode == 0


@pytest.mark.parametrize("name", [n for n, form in options.OPTIONS.items() if form.fixed])
def test_every_fixed_option_says_why(name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"option {name} is fixed for a volume's life: "):
        options.changed({}, {name: "64KiB"})


def test_options_after_a_change() -> None:
    recorded = {"interval": "1h", "uid": "5"}
    assert options.changed(recorded, {"interval": None, "verify": "off"}) == {
        "uid": "5",
        "verify": "off",
    }
    assert options.changed(recorded, {"uid": "5"}) == recorded
    assert recorded == {"interval": "1h", "uid": "5"}


def test_what_is_left_out_is_changed(daemon: Daemon) -> None:
    """Also of files whose signatures, from before they were left out, still hold."""
    daemon.ok("Create", Name="vol", Opts={"interval": "1h", "exclude": "cache,**/*.tmp"})
    live = Path(daemon.ok("Mount", Name="vol", ID="w")["Mountpoint"])
    (live / "cache").mkdir()
    for name in ("a", "a.tmp", "cache/b"):
        (live / name).write_text(name)

    def names(reference: str) -> list[str]:
        target = daemon.base / f"restored-{len(list(daemon.base.iterdir()))}"
        assert daemon.cli("restore", reference, "--to", str(target)).returncode == 0
        return sorted(str(each.relative_to(target)) for each in target.rglob("*"))

    def taken() -> dict[str, object]:
        return dict(parsed(daemon.cli("snapshot", "vol", "--json")))

    first = taken()
    assert (names(f"vol@{first['seq']}"), first["consistency"]) == (["a"], "crash")
    note = "left out by the option exclude (cache,**/*.tmp)"
    assert daemon.ok("Get", Name="vol")["Volume"]["Status"]["last_snapshot"]["cause"] == note
    assert daemon.cli("verify", "vol").returncode == 0
    assert daemon.admin("GET", "/v1/volumes/vol")["status"]["trouble"] == []
    for exclude, expected in (
        ("", ["a", "a.tmp", "cache", "cache/b"]),
        ("a*", ["cache", "cache/b"]),
        ("cache/**", ["a", "a.tmp", "cache"]),
        ("", ["a", "a.tmp", "cache", "cache/b"]),
    ):
        assert daemon.cli("set", "vol", f"exclude={exclude}").returncode == 0
        assert names(f"vol@{taken()['seq']}") == expected
        assert daemon.cli("verify", "vol").returncode == 0
    assert daemon.cli("set", "vol", "exclude=cache").returncode == 0
    assert parsed(daemon.cli("scrub", "--json"))["damaged_objects"] == 0
    daemon.ok("Unmount", Name="vol", ID="w")
    assert daemon.cli("verify", "vol").returncode == 0
    daemon.ok("Remove", Name="vol")
    (removed,) = daemon.admin("GET", "/v1/trash")
    assert not removed["live"]  # all that has a history is in the store
    assert daemon.cli("undelete", "vol").returncode == 0
    back = Path(daemon.ok("Mount", Name="vol", ID="x")["Mountpoint"])
    assert sorted(each.name for each in back.iterdir()) == ["a", "a.tmp"]
