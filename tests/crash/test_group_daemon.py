"""Volumes that one container has mounted, kept by the real daemon through kills and losses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from diffkeeper import failpoint, limits
from tests.support.containers import Container
from tests.support.daemon import Daemon
from tests.support.spanning import check_counter, counted, counter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
NAMES = ("data", "wal")
LARGE_BYTES = limits.BATCH_BYTES_MAX // 2 + (4 << 20)  # more than a member keeps in memory


class Pair:
    """Two mounted volumes of a daemon, and what uses them."""

    def __init__(self, interval: str) -> None:
        self.daemon = Daemon(Path(tempfile.mkdtemp(prefix="dk-")))
        self.daemon.start()
        for name in NAMES:
            self.daemon.ok("Create", Name=name, Opts={"interval": interval})
        self.container = Container()
        self.mount()

    def close(self) -> None:
        self.container.stop()
        self.daemon.clean()

    def mount(self) -> None:
        for name in NAMES:
            self.daemon.ok("Mount", Name=name, ID="m")

    def unmount(self, name: str) -> None:
        self.daemon.ok("Unmount", Name=name, ID="m")

    def status(self, name: str) -> dict[str, Any]:
        return dict(self.daemon.admin("GET", f"/v1/volumes/{name}")["status"])

    def live(self, name: str) -> Path:
        return Path(self.status(name)["live"])

    def places(self) -> dict[Path, Path]:
        """Where the volumes are on the host, and inside a container."""
        points = {n: self.daemon.admin("GET", f"/v1/volumes/{n}")["mountpoint"] for n in NAMES}
        return {Path(points[name]): self.inside(name) for name in NAMES}

    def inside(self, name: str) -> Path:
        return self.daemon.base / "inside" / name

    def count(self) -> None:
        """Start a container that counts in both, one counter each way round."""
        data, wal = self.inside("data"), self.inside("wal")
        forth, back = counter(data / "forth", wal / "forth"), counter(wal / "back", data / "back")
        self.container.start(self.places(), f"{forth} & {back} & wait")

    def history(self, name: str) -> list[dict[str, Any]]:
        return list(self.daemon.admin("GET", f"/v1/volumes/{name}/snapshots"))

    def groups(self, name: str) -> list[dict[str, Any]]:
        return [s for s in self.history(name) if s["group"] and s["consistency"] == "crash"]

    def restore(self, reference: str) -> dict[str, Path]:
        """What `restore --group` makes of it."""
        to = Path(tempfile.mkdtemp(dir=self.daemon.base)) / "restored"
        done = self.daemon.cli("restore", reference, "--to", str(to), "--group", "--json")
        assert done.returncode == 0, done.stderr
        made = json.loads(done.stdout)
        assert {m["volume"] for m in made["members"]} == set(NAMES)
        return {name: to / name for name in NAMES}


def eventually(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def check_pair(places: dict[str, Path]) -> tuple[int, int]:
    """Both counters are of one instant."""
    forth = check_counter(places["data"], places["wal"], "forth")
    return forth, check_counter(places["wal"], places["data"], "back")


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(getattr(request, "param", "100ms"))
    yield made
    made.close()


def test_a_group_under_load(pair: Pair) -> None:
    """Every instant is one of both; status, metrics and the command line show it."""
    assert pair.status("data")["capture"]["group"] == []
    done = pair.daemon.cli("restore", "data", "--to", str(pair.daemon.base / "no"), "--group")
    assert done.returncode == 3, done.stderr
    pair.count()
    eventually(lambda: len(pair.groups("data")) >= 5, "five instants of the group")
    status = pair.status("wal")
    assert status["capture"]["group"] == list(NAMES)
    last = status["capture"]["last"]
    assert last["freeze_seconds"] > 0
    assert last["capture_seconds"] >= last["freeze_seconds"]
    assert last["dirty_bytes"] >= 20
    assert last["rounds"] >= 2
    listen = pair.daemon.admin("GET", "/v1/version")["listen"]
    with urllib.request.urlopen(f"http://{listen}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    for name in ("effective_interval_seconds", "last_freeze_seconds", "last_dirty_bytes"):
        assert f'diffkeeper_{name}{{volume="data"}}' in page
    assert 'diffkeeper_group_volumes{volume="data"} 2.0' in page
    # The interval is one for both, and neither is captured without the other.
    key = "effective_interval_seconds"
    eventually(lambda: len({pair.status(n)["capture"][key] for n in NAMES}) == 1, "one pace")
    shots = pair.groups("data")[-5:]
    numbers = [check_pair(pair.restore(f"data@{shot['seq']}")) for shot in shots]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == len(numbers), "the counters stood still"
    for shot in shots:
        assert shot["members"]["data"] == shot["seq"]
    newest = pair.history("data")[-1]
    manual = pair.daemon.admin("POST", "/v1/volumes/wal/snapshots", {}, 201)
    assert manual["members"]["data"] > newest["seq"]


def test_both_live_directories_lost(pair: Pair) -> None:
    """What is replayed on mount is one instant, although the daemon was killed at any point."""
    pair.count()
    eventually(lambda: len(pair.groups("data")) >= 3, "three instants of the group")
    live = [pair.live(name) for name in NAMES]
    pair.daemon.stop(signal.SIGKILL)
    pair.container.stop()
    for path in live:
        shutil.rmtree(path)
    pair.daemon.start()
    for name in NAMES:
        pair.unmount(name)
    pair.mount()
    assert {pair.status(n)["last_recovery"]["kind"] for n in NAMES} == {"replay"}
    assert min(check_pair({name: pair.live(name) for name in NAMES})) > 0


def test_the_final_states_are_one_instant(pair: Pair) -> None:
    """The container is gone; the first unmount records both, not one a step ahead of the other."""
    pair.count()
    eventually(lambda: len(pair.groups("data")) >= 2, "two instants of the group")
    pair.container.stop()
    final = check_pair({name: pair.live(name) for name in NAMES})
    pair.unmount("data")
    # As if the machine went down now, and took both live directories along.
    live = [pair.live(name) for name in NAMES]
    pair.daemon.stop(signal.SIGKILL)
    for path in live:
        shutil.rmtree(path)
    pair.daemon.start()
    pair.unmount("wal")
    pair.mount()
    assert check_pair({name: pair.live(name) for name in NAMES}) == final


def test_another_container_that_has_one_of_them(pair: Pair) -> None:
    """It is frozen with the others, and goes on to write when they are gone."""
    pair.count()
    with Container() as other:
        wal = next(source for source, place in pair.places().items() if place.name == "wal")
        place = pair.daemon.base / "other" / "wal"
        other.start({wal: place}, f"while :; do echo x >> {place}/log; sleep 0.01; done")
        before = len(pair.groups("data"))
        eventually(lambda: len(pair.groups("data")) >= before + 3, "more instants of the group")
        check_pair(pair.restore("data"))
        pair.container.stop()
        final = check_pair({name: pair.live(name) for name in NAMES})
        pair.unmount("data")
        newest = pair.history("data")[-1]
        assert newest["members"].keys() == set(NAMES)
        assert check_pair(pair.restore(f"data@{newest['seq']}")) == final
        # Alone now: its snapshots are its own.
        known = len(pair.history("wal"))
        eventually(lambda: len(pair.history("wal")) >= known + 3, "it is captured on")
        assert pair.history("wal")[-1]["group"] == ""
        assert pair.status("wal")["capture"]["group"] == []
        assert final[0] - counted(pair.live("wal"), "forth") in (0, 1)


def write(pair: Pair, number: int, large: bool) -> None:
    """One state in both, as a container would."""
    for name in NAMES:
        (pair.live(name) / "state").write_text(str(number))
    if large:
        (pair.live("wal") / "large").write_bytes(os.urandom(LARGE_BYTES))


def check_instants(pair: Pair) -> int:
    """No snapshot of a group without the others; returns the newest state that all agree on."""
    found = {name: {s["seq"]: s for s in pair.history(name)} for name in NAMES}
    states = []
    for name in NAMES:
        for shot in found[name].values():
            if shot["seq"] == 1 and not shot["group"]:
                continue  # from before there was a container
            assert shot["members"].keys() == set(NAMES), shot
            assert all(seq in found[member] for member, seq in shot["members"].items())
            restored = pair.restore(f"{name}@{shot['seq']}")
            numbers = {(restored[n] / "state").read_text() for n in NAMES}
            assert len(numbers) == 1, f"{shot}: {numbers}"
            states.append(int(numbers.pop()))
    return max(states)


POINTS = sorted(n for n in failpoint.NAMES if n.startswith(("capture.", "store.")))


@pytest.mark.parametrize("pair", ["30d"], indirect=True)
@pytest.mark.parametrize("point", POINTS)
def test_killed_at(point: str, pair: Pair) -> None:
    """All members have the snapshot, or none has."""
    eventually(lambda: all(pair.history(n) for n in NAMES), "each is captured once mounted")
    write(pair, 1, large=False)
    pair.container.start(pair.places(), "sleep 300")
    pair.daemon.admin("POST", "/v1/volumes/wal/snapshots", {}, 201)
    assert check_instants(pair) == 1
    write(pair, 2, large=point == "store.objects_flushed")
    pair.daemon.stop(signal.SIGKILL)
    process = pair.daemon.spawn("--failpoints", f"{point}=kill")
    # It takes the container over, and captures what was written meanwhile.
    assert process.wait(60) == -signal.SIGKILL, pair.daemon.log
    pair.daemon.start()
    eventually(lambda: len(pair.groups("data")) > 1, "the new daemon captures both")
    assert check_instants(pair) == 2
    pair.daemon.admin("POST", "/v1/volumes/data/snapshots", {}, 201)
    frozen = pair.container.cgroup / "freezer.state"
    assert not frozen.exists() or frozen.read_text().strip() == "THAWED"
    for name in NAMES:
        report = pair.daemon.admin("POST", f"/v1/volumes/{name}/verify", {"snapshot": None})
        assert report["ok"], report


def mounts(pair: Pair) -> int:
    return int(pair.daemon.admin("GET", "/v1/volumes/data")["mounts"])


def test_a_mount_whose_container_ended_unseen(pair: Pair) -> None:
    """dockerd was away, and sends no Unmount for it: the last one that it does send is the end."""
    pair.count()
    eventually(lambda: len(pair.groups("data")) >= 5, "the container is seen")
    pair.daemon.ok("Mount", Name="data", ID="next")
    pair.container.stop()
    pair.daemon.ok("Unmount", Name="data", ID="next")
    assert mounts(pair) == 0
    # A capture at an interval may have come before it, and left nothing to record.
    assert pair.history("data")[-1]["reason"] in ("unmount", "interval")
    done = pair.daemon.cli("verify", "data")
    assert done.returncode == 0, done.stderr


def test_a_mount_whose_container_is_about_to_start(pair: Pair) -> None:
    """The end of another container is not its own, however long it takes to start."""
    pair.count()
    eventually(lambda: len(pair.groups("data")) >= 5, "the container is seen")
    pair.daemon.ok("Mount", Name="data", ID="next")
    before = len(pair.groups("data"))
    eventually(lambda: len(pair.groups("data")) >= before + 2, "the first container goes on")
    pair.container.stop()
    pair.daemon.ok("Unmount", Name="data", ID="m")
    assert mounts(pair) == 1
