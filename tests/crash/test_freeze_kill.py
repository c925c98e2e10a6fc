"""kill -9 inside a freeze, of the freezing process, of its guard, of both: nothing stays frozen."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import diffkeeper
from diffkeeper.errors import CorruptionError
from diffkeeper.freeze.cgroups import Cgroup, Hierarchy
from diffkeeper.freeze.freezer import Freezer, thaw_journal
from diffkeeper.service.service import VolumeService
from diffkeeper.store.store import Store
from tests.support.cgroups import remove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = "/sys/fs/cgroup"
ENVIRONMENT = dict(os.environ, PYTHONPATH=str(Path(diffkeeper.__file__).parents[1]))
# argv: journal, seconds to hold each freeze, cgroups. Prints the guard's number once, then a line
# per freeze and one per thaw.
PROGRAM = """
import sys, time
from diffkeeper.freeze.freezer import Freezer
freezer = Freezer("/sys/fs/cgroup", sys.argv[1])
freezer.start()
print("guard", freezer.guard_pid, flush=True)
while True:
    with freezer.frozen(sys.argv[3:], 5.0):
        print("frozen", flush=True)
        time.sleep(float(sys.argv[2]))
    print("thawed", freezer.guard_pid, flush=True)
"""


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> float:
    """Seconds until it holds."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + seconds, "waited in vain"
        time.sleep(0.0005)
    return time.monotonic() - started


def is_frozen(directory: str) -> bool:
    cgroup = Cgroup.open(directory)
    assert cgroup is not None
    try:
        return cgroup.requested()
    finally:
        cgroup.close()


def gone(pid: int) -> bool:
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture(params=["v1", "v2"])
def cgroups(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Two cgroups of the version, with a process in each."""
    hierarchy = Hierarchy(ROOT)
    mount = hierarchy.v1 if request.param == "v1" else hierarchy.v2
    if not mount:
        pytest.skip(f"no cgroup {request.param} freezer is mounted here")
    if os.geteuid() != 0 or not os.access(mount, os.W_OK):
        pytest.skip("making cgroups needs root and a writable cgroup file system")
    directories = [f"{mount}/diffkeeper-crash-{os.getpid()}-{number}" for number in range(2)]
    sleepers = []
    for directory in directories:
        os.mkdir(directory)
        sleepers.append(subprocess.Popen(["sleep", "300"]))
        Path(directory, "cgroup.procs").write_text(str(sleepers[-1].pid))
    yield directories
    for directory, sleeper in zip(directories, sleepers, strict=True):
        frozen = is_frozen(directory)
        cgroup = Cgroup.open(directory)
        assert cgroup is not None
        cgroup.thaw()
        cgroup.close()
        sleeper.kill()
        sleeper.wait()
        remove(directory)
        assert not frozen, "the test left its cgroup frozen"


class Holder:
    """A process that freezes in a loop, `hold` seconds each time."""

    def __init__(self, journal: Path, hold: float, cgroups: list[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(journal), str(hold), *cgroups],
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        self.guard = int(self.line().split()[1])

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def hold(tmp_path: Path, cgroups: list[str]) -> Iterator[Callable[[float], Holder]]:
    holders: list[Holder] = []

    def start(seconds: float) -> Holder:
        holders.append(Holder(tmp_path / "journal", seconds, cgroups))
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()
        wait_for(lambda pid=holder.guard: gone(pid))  # type: ignore[misc]


def test_parent_killed(cgroups: list[str], hold: Callable[[float], Holder], tmp_path: Path) -> None:
    holder = hold(4.0)
    assert holder.line() == "frozen"
    assert all(map(is_frozen, cgroups))
    holder.process.kill()
    seconds = wait_for(lambda: not any(map(is_frozen, cgroups)))
    print(f"thawed {seconds * 1000:.1f} ms after kill -9 of the parent")
    assert seconds < 1
    wait_for(lambda: gone(holder.guard))
    assert thaw_journal(str(tmp_path / "journal"), ROOT) == []
    assert Path(tmp_path / "journal").read_bytes()[:16] == bytes(16), "the guard clears it"


def test_parent_killed_at_any_moment(
    cgroups: list[str], hold: Callable[[float], Holder], tmp_path: Path
) -> None:
    for _ in range(15):
        holder = hold(0.0)
        holder.line()
        time.sleep(random.uniform(0.0, 0.02))
        holder.kill()
        wait_for(lambda pid=holder.guard: gone(pid), 5)  # type: ignore[misc]
        assert not any(map(is_frozen, cgroups))
        assert thaw_journal(str(tmp_path / "journal"), ROOT) == []


def test_guard_killed(cgroups: list[str], hold: Callable[[float], Holder]) -> None:
    holder = hold(0.5)
    assert holder.line() == "frozen"
    first = holder.guard
    os.kill(first, signal.SIGKILL)
    assert holder.line().startswith("thawed"), "the parent thaws by itself"
    assert holder.line() == "frozen", "and has a new guard for the next freeze"
    thawed = holder.line().split()
    holder.guard = int(thawed[1])
    assert holder.guard not in (0, first)
    assert gone(first)
    assert holder.line() == "frozen"
    holder.process.kill()
    assert wait_for(lambda: not any(map(is_frozen, cgroups))) < 1


def test_guard_and_parent_killed(
    cgroups: list[str], hold: Callable[[float], Holder], tmp_path: Path
) -> None:
    holder = hold(60.0)
    assert holder.line() == "frozen"
    os.kill(holder.guard, signal.SIGSTOP)
    os.kill(holder.process.pid, signal.SIGKILL)
    os.kill(holder.guard, signal.SIGKILL)
    holder.kill()
    wait_for(lambda: gone(holder.guard))
    assert all(map(is_frozen, cgroups)), "nobody is left to thaw"
    freezer = Freezer(ROOT, str(tmp_path / "journal"))
    assert freezer.start() == cgroups
    try:
        assert not any(map(is_frozen, cgroups))
    finally:
        freezer.stop()
    assert thaw_journal(str(tmp_path / "journal"), ROOT) == []


async def test_a_refused_store_keeps_nothing_frozen(
    cgroups: list[str], hold: Callable[[float], Holder], tmp_path: Path
) -> None:
    """Thawed before anything of the store is read."""
    Store.open(str(tmp_path / "store")).close()
    data = tmp_path / "store" / "data.mdb"
    data.write_bytes(bytes(8192) + data.read_bytes()[8192:])
    (tmp_path / "freeze.journal").symlink_to(tmp_path / "journal")
    holder = hold(60.0)
    assert holder.line() == "frozen"
    os.kill(holder.guard, signal.SIGSTOP)
    os.kill(holder.process.pid, signal.SIGKILL)
    os.kill(holder.guard, signal.SIGKILL)
    wait_for(lambda: gone(holder.guard))
    assert all(map(is_frozen, cgroups))
    service = VolumeService(
        str(tmp_path), str(tmp_path / "mounts"), cgroup_root=ROOT, proc_root="/proc", ebpf="off"
    )
    with pytest.raises(CorruptionError):
        await service.start()
    assert not any(map(is_frozen, cgroups))
    await service.stop()


def test_guard_ignores_signals_to_a_group(
    cgroups: list[str], hold: Callable[[float], Holder]
) -> None:
    holder = hold(4.0)
    assert holder.line() == "frozen"
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(holder.guard, number)
    time.sleep(0.1)
    assert not gone(holder.guard)
    holder.process.kill()
    assert wait_for(lambda: not any(map(is_frozen, cgroups))) < 1


def test_guard_is_small(tmp_path: Path) -> None:
    freezer = Freezer(ROOT, str(tmp_path / "journal"))
    freezer.start()
    try:
        status = Path("/proc", str(freezer.guard_pid), "status").read_text()
        resident_kib = int(status.partition("VmRSS:")[2].split()[0])
        print(f"guard: {resident_kib} KiB resident")
        assert resident_kib < 16 * 1024  # all that it has is locked, whether it was used or not
    finally:
        pid = freezer.guard_pid
        freezer.stop()
    assert gone(pid)
    assert freezer.guard_pid == 0
