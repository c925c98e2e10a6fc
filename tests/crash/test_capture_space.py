"""A full disk under the daemon: live data stay whole, it is told everywhere, and it passes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from diffkeeper.errors import NoSpaceError
from diffkeeper.integrity.verify import Verifier
from diffkeeper.limits import MIB
from diffkeeper.snapshot.policy import CapturePolicy
from tests.support.capture_rig import CaptureRig
from tests.support.daemon import Daemon
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DISK_BYTES = 96 * MIB
DATA_BYTES = 8 * MIB


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A small file system, in a short path, since a socket's path is bounded."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    base = Path(tempfile.mkdtemp(prefix="dk-"))
    mount = base / "disk"
    mount.mkdir()
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(mount)]
    else:
        image = base / "image"
        image.touch()
        os.truncate(image, DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        command = ["mount", "-o", "loop", str(image), str(mount)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small {request.param}: {mounted.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True)
    subprocess.run(["rm", "-rf", "--one-file-system", str(base)], check=True)


def fill(disk: Path) -> Path:
    """Take all the room; removing the returned file gives it back."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        for piece in (MIB, 4096):
            written = piece
            while written == piece:
                try:
                    written = file.write(bytes(piece))
                except OSError:
                    break
    os.sync()
    return filler


def overwrite(path: Path, seed: int) -> None:
    """New content in the blocks that the file has already."""
    with open(path, "r+b") as file:
        file.write(random.Random(seed).randbytes(DATA_BYTES))


def wait_for(condition: Callable[[], bool], what: str, seconds_max: float = 60.0) -> None:
    deadline = time.monotonic() + seconds_max
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)


@pytest.mark.parametrize("source", ["inotify", "scan"])
def test_a_rig_on_a_full_disk(source: str, disk: Path) -> None:
    """Every capture fails as NoSpaceError and loses nothing; the next one with room has it all."""
    base = disk / "base"
    base.mkdir()
    with CaptureRig(base, CapturePolicy(source=source)) as rig:
        data = rig.live / "data"
        data.write_bytes(bytes(1) * DATA_BYTES)
        (rig.live / "gone").write_bytes(b"gone")
        overwrite(data, 1)
        first = rig.capture()
        before = describe(rig.live)
        filler = fill(disk)
        overwrite(data, 2)
        os.rename(rig.live / "gone", rig.live / "moved")
        after = describe(rig.live)
        for _ in range(3):
            with pytest.raises(NoSpaceError):
                rig.capture()
            assert difference(describe(rig.live), after) == []
            assert rig.state.head == first
        filler.unlink()
        second = rig.capture()
        assert second.seq == first.seq + 1
        for snapshot, tree in ((first, before), (second, after)):
            assert difference(describe(rig.replay(snapshot, f"r{snapshot.seq}")), tree) == []
            root = snapshot.root
            assert Verifier(rig.store, rig.reader).stored(root).mismatches == []


class Full:
    """A daemon whose whole state is on the small disk, with a mounted volume."""

    def __init__(self, disk: Path) -> None:
        self.disk = disk
        base = disk / "d"
        base.mkdir()
        self.daemon = Daemon(base)
        self.daemon.start()
        self.daemon.ok("Create", Name="v", Opts={"interval": "200ms", "retention": "all"})
        self.live = Path(self.daemon.ok("Mount", Name="v", ID="m")["Mountpoint"])
        self.data = self.live / "data"
        self.data.write_bytes(b"\1" * DATA_BYTES)
        overwrite(self.data, 1)
        os.sync()
        self.daemon.admin("POST", "/v1/volumes/v/snapshots", {}, status=201)

    def close(self) -> None:
        self.daemon.clean()

    def status(self) -> dict[str, Any]:
        return dict(self.daemon.admin("GET", "/v1/volumes/v")["status"])

    def seq(self) -> int:
        return int(self.status()["last_snapshot"]["seq"])

    def in_trouble(self) -> bool:
        return any("free" in trouble or "room" in trouble for trouble in self.status()["trouble"])

    def metrics(self) -> str:
        listen = self.daemon.admin("GET", "/v1/version")["listen"]
        with urllib.request.urlopen(f"http://{listen}/metrics") as answer:
            return str(answer.read(), "utf-8")

    def whole(self, seq: int) -> None:
        """The newest snapshot is what is on disk, and older ones are whole."""
        report = self.daemon.admin("POST", "/v1/volumes/v/verify", {"snapshot": None})
        assert (report["ok"], report["complete"]) == (True, True), report
        for number in range(1, seq + 1):
            message = {"snapshot": str(number)}
            report = self.daemon.admin("POST", "/v1/volumes/v/verify", message)
            assert (report["ok"], report["complete"]) == (True, True), report


@pytest.fixture
def full(disk: Path) -> Iterator[Full]:
    made = Full(disk)
    yield made
    made.close()


def test_it_is_told_and_it_passes(full: Full) -> None:
    daemon = full.daemon
    seq = full.seq()
    assert not full.in_trouble()
    filler = fill(full.disk)
    overwrite(full.data, 2)
    written = describe(full.live)
    wait_for(full.in_trouble, "the trouble shows")
    answer = daemon.request("POST", "/v1/volumes/v/snapshots", b"{}")
    assert (answer.status, answer.json["error"]) == (507, "NoSpaceError")
    assert full.seq() == seq
    errors = [line for line in full.metrics().splitlines() if "capture_errors_total{" in line]
    assert any('error="no_space"' in line and 'volume="v"' in line for line in errors), errors
    findings = {finding["name"]: finding for finding in daemon.admin("GET", "/v1/doctor")}
    assert findings["health"]["result"] == "fail"
    assert "v: " in findings["health"]["found"]
    shown = daemon.ok("Get", Name="v")["Volume"]["Status"]
    assert "snapshot" in str(shown["trouble"])
    assert difference(describe(full.live), written) == []

    filler.unlink()
    wait_for(lambda: full.seq() > seq and not full.in_trouble(), "capture resumes by itself")
    assert difference(describe(full.live), written) == []
    full.whole(full.seq())


def test_killed_unmounted_and_mounted_on_a_full_disk(full: Full) -> None:
    """What needs no room for objects goes on: restart, counts of mounts, Unmount, Mount."""
    daemon = full.daemon
    filler = fill(full.disk)
    overwrite(full.data, 2)
    written = describe(full.live)
    wait_for(full.in_trouble, "the trouble shows")
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert difference(describe(full.live), written) == []
    daemon.ok("Mount", Name="v", ID="n")
    daemon.ok("Unmount", Name="v", ID="n")
    assert daemon.admin("GET", "/v1/volumes/v")["mounts"] == 0
    assert full.in_trouble()
    again = Path(daemon.ok("Mount", Name="v", ID="m")["Mountpoint"])
    assert difference(describe(again), written) == []
    filler.unlink()
    wait_for(lambda: not full.in_trouble(), "capture resumes by itself")
    daemon.ok("Unmount", Name="v", ID="m")
    assert daemon.admin("GET", "/v1/volumes/v")["status"]["trouble"] == []
    full.whole(full.seq())
    daemon.ok("Remove", Name="v")


def test_a_create_that_finds_no_room_leaves_nothing(full: Full) -> None:
    daemon = full.daemon
    filler = fill(full.disk)
    error = daemon.call("Create", Name="w").json["Err"]
    filler.unlink()
    names = {volume["Name"] for volume in daemon.ok("List")["Volumes"]}
    assert ("w" in names) == (error == "")
    daemon.ok("Create", Name="w")
    daemon.ok("Remove", Name="w")
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert [volume["Name"] for volume in daemon.ok("List")["Volumes"]] == ["v"]


@pytest.mark.parametrize("told", ["cannot be replayed: it takes", "could not be replayed: "])
def test_a_replay_without_room_leaves_nothing(full: Full, told: str) -> None:
    """The Mount fails, and the disk is no fuller than before; with room it succeeds.

    Of small files it is not sure before it has begun: they may lie in their inodes.
    """
    daemon = full.daemon
    if "could" in told:
        full.data.unlink()
        for number in range(3000):
            (full.live / str(number)).write_bytes(os.urandom(2048))
    else:
        (full.live / "large").write_bytes(os.urandom(8 * MIB))
    daemon.admin("POST", "/v1/volumes/v/snapshots", {}, 201)
    written = describe(full.live)
    daemon.ok("Unmount", Name="v", ID="m")
    live = Path(daemon.admin("GET", "/v1/volumes/v")["status"]["live"])
    shutil.rmtree(live)
    filler = fill(full.disk)
    os.truncate(filler, filler.stat().st_size - 3 * MIB)
    assert told in daemon.call("Mount", Name="v", ID="m").err
    (trouble,) = daemon.admin("GET", "/v1/volumes/v")["status"]["trouble"]
    assert told in trouble
    assert not (live.parent / "incoming").exists()
    assert not live.exists()
    filler.unlink()
    again = Path(daemon.ok("Mount", Name="v", ID="m")["Mountpoint"])
    assert difference(describe(again), written) == []
    assert daemon.admin("GET", "/v1/volumes/v")["status"]["trouble"] == []
    daemon.ok("Unmount", Name="v", ID="m")
