"""A snapshot of a volume in use: its writer stands still inside, by either freezer, and runs on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper import limits
from diffkeeper.snapshot.policy import CapturePolicy
from tests.support import cgroups
from tests.support.capture_rig import CaptureRig
from tests.support.namespaces import in_namespace
from tests.support.stuck import sleeping_deeply
from tests.support.trees import Description, describe, difference, without

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diffkeeper.freeze.freezer import Freezer, Frozen

SNAPSHOTS = 5
SNAPSHOTS_UNTIL_FUZZY_MAX = 100
LATE_MAX = 5  # of them, for want of time
FREEZE_SECONDS = 2.0  # an emulated machine is slow
# Writes each number into one file, then into the other. argv: directory.
PROGRAM = """
import os, sys, time
files = [os.open(os.path.join(sys.argv[1], name), os.O_RDWR | os.O_CREAT) for name in "ab"]
number = 0
while True:
    number += 1
    for file in files:
        os.pwrite(file, b"%020d" % number, 0)
    time.sleep(0.001)
"""
BUSY = PROGRAM.replace("time.sleep(0.001)", "pass")


def is_frozen(cgroup: str) -> bool:
    """What the kernel tells of it, read without our own code."""
    if os.path.exists(f"{cgroup}/cgroup.events"):
        return "frozen 1" in Path(cgroup, "cgroup.events").read_text()
    return Path(cgroup, "freezer.state").read_text() == "FROZEN\n"


class WatchedFreezer:
    """The real freezer; what the kernel tells inside each freeze, and the files' content."""

    def __init__(self, real: Freezer, live: Path) -> None:
        self._real = real
        self._live = live
        self.inside: list[bool] = []
        self.content: tuple[bytes, ...] = ()

    @contextlib.contextmanager
    def frozen(self, cgroups: Sequence[str], limit_seconds: float) -> Iterator[Frozen]:
        """As the real one."""
        with self._real.frozen(cgroups, limit_seconds) as frozen:
            yield frozen
            self.inside = [is_frozen(cgroup) for cgroup in cgroups]
            self.content = content(self._live)


def content(directory: Path) -> tuple[bytes, ...]:
    return tuple((directory / name).read_bytes() for name in "ab")


def wait_for_writes(live: Path) -> None:
    """The writer gets on."""
    before = (live / "a").read_bytes() if (live / "a").exists() else b""
    deadline = time.monotonic() + 30
    while not (live / "b").exists() or (live / "a").read_bytes() == before:
        assert time.monotonic() < deadline, "the writer does not run"
        time.sleep(0.005)


@pytest.fixture(params=["v1", "v2"])
def cgroup(request: pytest.FixtureRequest) -> Iterator[str]:
    """A cgroup of its own of this version."""
    directory = cgroups.fresh(request.param, "snapshot")
    yield directory
    cgroups.remove(directory)


@pytest.fixture
def live(cgroup: str, tmp_path: Path) -> Iterator[Path]:
    """A directory that a process in the cgroup has mounted and writes to."""
    directory, mount = tmp_path / "live", tmp_path / "mount"
    directory.mkdir()
    mount.mkdir()
    script = f'mount --bind {directory} {mount} && exec {sys.executable} -c "$1" {mount}'
    writer = subprocess.Popen(in_namespace(script, PROGRAM, cgroups=[cgroup]))
    try:
        wait_for_writes(directory)
        yield directory
    finally:
        writer.kill()
        writer.wait()


@pytest.mark.parametrize("source", ["inotify", "ebpf"])
def test_a_snapshot_freezes_its_writer(
    source: str, cgroup: str, live: Path, tmp_path: Path
) -> None:
    with CaptureRig(
        tmp_path, CapturePolicy(source, freeze_seconds_max=FREEZE_SECONDS), live=live
    ) as rig:
        chosen = f"{rig.watched.watcher.source.name} ({rig.watched.watcher.reason})"
        print(f"{source}: {chosen}")
        freezer = WatchedFreezer(rig.context.freezer, live)
        rig.context.freezer = freezer  # type: ignore[assignment]  # the real one inside
        for number in range(SNAPSHOTS):
            wait_for_writes(live)
            found = rig.writers()
            assert found.cgroups == (cgroup,)
            snapshot = rig.capture_of("interval", found)
            assert snapshot is not None
            assert freezer.inside == [True]
            assert not is_frozen(cgroup)
            assert (snapshot.consistency, snapshot.cause) == ("crash", "")
            assert content(rig.replay(snapshot, f"replay{number}")) == freezer.content
            print(f"snapshot {snapshot.seq}: frozen {snapshot.freeze_ms:.1f} ms")
        wait_for_writes(live)


@pytest.mark.parametrize("source", ["inotify", "ebpf"])
def test_who_writes_through_the_hosts_tree_makes_it_fuzzy(
    source: str, cgroup: str, live: Path, tmp_path: Path
) -> None:
    """A container that was given the host's tree is not frozen; what it writes shows."""
    seen, apart = tmp_path / "seen", live / "apart"
    seen.mkdir()
    apart.mkdir()
    script = f'mount --rbind / {seen} && exec {sys.executable} -c "$1" {seen}{apart}'
    point = tmp_path / "host"
    point.mkdir()
    subprocess.run(["mount", "--bind", str(live), str(point)], check=True)
    monitor = subprocess.Popen(in_namespace(script, BUSY))
    try:
        with CaptureRig(
            tmp_path, CapturePolicy(source, freeze_seconds_max=FREEZE_SECONDS), live=live
        ) as e:
            wait_for_writes(apart)
            assert monitor.pid not in e.writers().users
            late = 0
            for number in range(SNAPSHOTS_UNTIL_FUZZY_MAX):
                snapshot = e.capture_of("interval", e.writers())
                assert snapshot is not None
                if "by a process that was not frozen" in snapshot.cause:
                    return
                if snapshot.consistency == "fuzzy":
                    late += 1
                    if late == LATE_MAX:
                        pytest.skip(f"the machine is too slow here: {snapshot.cause}")
                    continue
                first, second = content(e.replay(snapshot, f"replay{number}") / "apart")
                assert int(first) - int(second) in (0, 1)
            pytest.fail("it was never seen")
    finally:
        monitor.kill()
        monitor.wait()
        subprocess.run(["umount", str(point)], check=True)


def test_a_container_that_does_not_freeze_is_let_alone(
    cgroup: str, live: Path, tmp_path: Path
) -> None:
    """Its snapshots are fuzzy, and name who waits; what else runs in it is not stopped for each."""
    with (
        sleeping_deeply(tmp_path / "hangs") as stuck,
        CaptureRig(tmp_path, CapturePolicy("inotify", freeze_seconds_max=0.2), live=live) as rig,
    ):
        Path(cgroup, "cgroup.procs").write_text(str(stuck.pid))
        held: list[float] = []
        for _ in range(5):
            wait_for_writes(live)
            snapshot = rig.capture_of("interval", rig.writers())
            assert snapshot is not None
            assert snapshot.consistency == "fuzzy"
            assert f"process {stuck.pid} (mkdir) waits in " in snapshot.cause
            held.append(rig.watched.frozen_seconds)
        assert held[0] >= limits.FREEZE_ATTEMPTS_MAX * 0.2
        assert held == held[:1] * 5
        stuck.release()


# Writes, renames into and out of what is left out, and writes again. argv: directory.
MOVER = """
import os, sys
os.chdir(sys.argv[1])
os.makedirs("cache/d", exist_ok=True)
number = 0
while True:
    number += 1
    for name in ("a", "cache/new", "b.tmp", "b"):
        with open(name, "w") as file:
            file.write(str(number))
    os.rename("cache/new", f"moved-{number % 3}")
    os.rename("b.tmp", "c")
    os.rename("c", "cache/d/c")
    if number % 5 == 0:
        os.makedirs("cache/e/f", exist_ok=True)
        os.rename("cache/e", f"e-{number}")
        os.rename(f"e-{number}", f"cache/d/e-{number}")
"""
LEFT_OUT = ("cache", "**/*.tmp")


@pytest.mark.parametrize("source", ["inotify", "ebpf", "scan"])
def test_all_but_what_is_left_out_is_of_one_instant(
    source: str, cgroup: str, live: Path, tmp_path: Path
) -> None:
    """What is in the directory within the freeze, while names move in and out."""
    script = f'echo $$ > {cgroup}/cgroup.procs && exec {sys.executable} -c "$1" {live}'
    mover = subprocess.Popen(["sh", "-c", script, "sh", MOVER])
    seen: list[Description] = []
    policy = CapturePolicy(source, freeze_seconds_max=FREEZE_SECONDS, exclude=LEFT_OUT)
    try:
        with CaptureRig(tmp_path, policy, live=live) as rig:
            real = rig.context.freezer

            class Seeing(WatchedFreezer):
                @contextlib.contextmanager
                def frozen(self, cgroups: Sequence[str], limit_seconds: float) -> Iterator[Frozen]:
                    with real.frozen(cgroups, limit_seconds) as frozen:
                        yield frozen
                        seen[:] = [without(describe(live), LEFT_OUT)]

            rig.context.freezer = Seeing(real, live)  # type: ignore[assignment]  # the real one
            compared = 0
            for number in range(2 * SNAPSHOTS):
                wait_for_writes(live)
                snapshot = rig.capture_of("interval", rig.writers())
                assert snapshot is not None
                if snapshot.consistency == "crash":
                    compared += 1
                    replayed = rig.replay(snapshot, f"replay{number}")
                    assert difference(describe(replayed), seen[0]) == []
            assert compared >= SNAPSHOTS
    finally:
        mover.kill()
        mover.wait()
