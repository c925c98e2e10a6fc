"""Freezes on the real kernel, v1 and v2: pauses of others, limits, what must never freeze."""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import diffkeeper
from diffkeeper import clock, limits
from diffkeeper.errors import CorruptionError, FreezeError
from diffkeeper.freeze.cgroups import Cgroup, Hierarchy, topmost
from diffkeeper.freeze.control_watch import Watch
from diffkeeper.freeze.freezer import Freezer, thaw_journal
from diffkeeper.freeze.journal import FreezeJournal
from tests.support import cgroups
from tests.support.stuck import StuckProcess, sleeping_deeply, sleeps_deeply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = "/sys/fs/cgroup"
PACKAGES = str(Path(diffkeeper.__file__).parents[1])
ENVIRONMENT = dict(os.environ, PYTHONPATH=PACKAGES)
# Counts in a file's first eight bytes for as long as it runs.
COUNTER = """
import mmap, os, sys, time
memory = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 4096)
count = 0
while True:
    count += 1
    memory[:8] = count.to_bytes(8, "little")
    time.sleep(0.0002)
"""


class Worker:
    """A process that counts; `runs` and `stands` tell whether it is frozen."""

    def __init__(self, path: Path, cgroup: str) -> None:
        path.write_bytes(bytes(4096))
        self.path = path
        self.process = subprocess.Popen([sys.executable, "-c", COUNTER, str(path)])
        Path(cgroup, "cgroup.procs").write_text(str(self.process.pid))
        wait_for(lambda: self.count() > 0)

    def count(self) -> int:
        return int.from_bytes(self.path.read_bytes()[:8], "little")

    def runs(self, seconds: float = 5) -> bool:
        """True as soon as it counts on; a busy machine may take its time."""
        before, deadline = self.count(), time.monotonic() + seconds
        while self.count() == before and time.monotonic() < deadline:
            time.sleep(0.001)
        return self.count() != before

    def stands(self, seconds: float = 0.03) -> bool:
        return not self.runs(seconds)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@pytest.fixture(params=["v1", "v2"])
def parent(request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh cgroup of the version; skips where the machine does not have it."""
    directory = cgroups.fresh(request.param, "test")
    yield directory
    cgroups.remove(directory)


@pytest.fixture
def workers(parent: str, tmp_path: Path) -> Iterator[Callable[[str], Worker]]:
    """Starts workers in a cgroup; all end with the test."""
    started: list[Worker] = []

    def start(cgroup: str = "") -> Worker:
        os.makedirs(cgroup or parent, exist_ok=True)
        started.append(Worker(tmp_path / f"counter{len(started)}", cgroup or parent))
        return started[-1]

    yield start
    pause(parent, False)
    for worker in started:
        worker.stop()


def pause(directory: str, frozen: bool = True) -> None:
    """What `docker pause` and `unpause` do: open, write, close."""
    control = Path(directory, "freezer.state")
    if control.exists():
        control.write_text("FROZEN" if frozen else "THAWED")
    else:
        Path(directory, "cgroup.freeze").write_text("1" if frozen else "0")


def is_paused(directory: str) -> bool:
    cgroup = Cgroup.open(directory)
    assert cgroup is not None
    try:
        return cgroup.requested()
    finally:
        cgroup.close()


def test_freeze_stops_and_thaw_resumes(
    parent: str, workers: Callable[..., Worker], freezer: Freezer
) -> None:
    first, second = workers(), workers()
    assert first.runs()
    assert second.runs()
    with freezer.frozen([parent], 2.0) as frozen:
        assert first.stands(0.1)
        assert second.stands(0.1)
        assert 0 < frozen.remaining() < 1.9
        assert not frozen.expired
        assert frozen.paused_already == ()
    assert first.runs()
    assert second.runs()
    assert not frozen.expired
    assert 0.2 < frozen.seconds < 2
    assert not is_paused(parent)


def test_no_cycle_collection_inside(
    parent: str, workers: Callable[..., Worker], freezer: Freezer
) -> None:
    workers()
    assert gc.isenabled()
    with freezer.frozen([parent], 2.0):
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), freezer.frozen([parent], 2.0):
        _ = 1 // 0
    assert gc.isenabled()


def test_priority_only_inside(
    parent: str, workers: Callable[..., Worker], freezer: Freezer
) -> None:
    workers()
    capabilities = Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0]
    before = os.sched_getscheduler(0)
    with freezer.frozen([parent], 2.0):
        inside = os.sched_getscheduler(0)
    assert freezer.urgent == (inside & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR)
    if not freezer.urgent:
        assert not int(capabilities, 16) & 1 << 23, "CAP_SYS_NICE is there"
    assert os.sched_getscheduler(0) == before
    with pytest.raises(ZeroDivisionError), freezer.frozen([parent], 2.0):
        _ = 1 // 0
    assert os.sched_getscheduler(0) == before


def test_an_error_inside_thaws(
    parent: str, workers: Callable[..., Worker], freezer: Freezer
) -> None:
    worker = workers()
    with pytest.raises(ZeroDivisionError), freezer.frozen([parent], 2.0):
        _ = 1 // 0
    assert worker.runs()


def test_paused_before_stays_paused(
    parent: str, workers: Callable[..., Worker], freezer: Freezer
) -> None:
    paused, running = workers(f"{parent}/paused"), workers(f"{parent}/running")
    pause(f"{parent}/paused")
    with freezer.frozen([f"{parent}/paused", f"{parent}/running"], 2.0) as frozen:
        assert frozen.paused_already == (f"{parent}/paused",)
        assert running.stands()
    assert not frozen.expired
    assert running.runs()
    assert paused.stands()
    assert is_paused(f"{parent}/paused")
    with freezer.frozen([f"{parent}/paused"], 2.0) as frozen:
        pass
    assert not frozen.expired
    assert paused.stands()
    with freezer.frozen([f"{parent}/paused"], 2.0) as frozen:
        pause(f"{parent}/paused", False)
        assert paused.runs()
    assert frozen.expired, "the user resumed it inside our freeze"


def test_paused_ancestor_stays_paused(
    parent: str, workers: Callable[..., Worker], freezer: Freezer
) -> None:
    worker = workers(f"{parent}/child")
    pause(parent)
    with freezer.frozen([f"{parent}/child"], 2.0) as frozen:
        pause(parent, False)
        assert worker.stands(), "our own freeze holds without the user's"
    assert not frozen.expired
    assert worker.runs()


def test_pause_during_our_freeze_is_kept(
    parent: str, workers: Callable[..., Worker], freezer: Freezer
) -> None:
    worker = workers()
    for _ in range(20):
        with freezer.frozen([parent], 2.0) as frozen:
            pause(parent)
        assert frozen.expired, "nobody knows what the other one wrote before"
        assert is_paused(parent)
        assert worker.stands(0.005)
        pause(parent, False)
        with freezer.frozen([parent], 2.0) as frozen:
            assert Path(parent, "cgroup.procs").read_text()
            is_paused(parent)  # Opening and reading the control file is not writing it.
        assert not frozen.expired
        assert not is_paused(parent)
    assert worker.runs()


def test_resume_during_our_freeze_is_told(
    parent: str, workers: Callable[..., Worker], freezer: Freezer
) -> None:
    worker = workers()
    with freezer.frozen([parent], 2.0) as frozen:
        pause(parent, False)
        assert worker.runs()
        assert frozen.expired
    assert frozen.expired
    assert not is_paused(parent)


def test_topmost_only(parent: str, workers: Callable[..., Worker], freezer: Freezer) -> None:
    inner, outer = workers(f"{parent}/a/b"), workers(f"{parent}/a")
    with freezer.frozen([f"{parent}/a/b", f"{parent}/a", f"{parent}/a"], 2.0):
        assert is_paused(f"{parent}/a")
        assert not is_paused(f"{parent}/a/b")
        assert inner.stands()
        assert outer.stands()
    assert inner.runs()
    assert topmost(["/c/a-b", "/c/a/x", "/c/a", "/c/a/x/y", "/c/ab"]) == ["/c/a", "/c/a-b", "/c/ab"]


def test_vanished_cgroups_are_skipped(
    parent: str, workers: Callable[..., Worker], freezer: Freezer
) -> None:
    worker = workers(f"{parent}/stays")
    gone = f"{parent}/gone"
    os.mkdir(gone)
    with freezer.frozen([gone, f"{parent}/stays"], 2.0) as frozen:
        os.rmdir(gone)
        assert worker.stands()
    assert not frozen.expired
    with freezer.frozen([gone, f"{parent}/stays"], 2.0) as frozen:
        assert worker.stands()
    os.mkdir(gone)
    returned = workers(gone)
    with freezer.frozen([gone], 2.0) as frozen:
        assert returned.stands(), "a new cgroup of an old name is another cgroup"
    assert returned.runs()
    with freezer.frozen([], 2.0) as frozen:
        pass
    assert not frozen.expired


def test_root_and_own_cgroups_are_refused(parent: str, freezer: Freezer, tmp_path: Path) -> None:
    with pytest.raises(FreezeError, match="root"), freezer.frozen([os.path.dirname(parent)], 1.0):
        pass
    with pytest.raises(FreezeError, match="no freezer"), freezer.frozen([str(tmp_path)], 1.0):
        pass
    program = f"""
import os, sys
from diffkeeper.errors import FreezeError
from diffkeeper.freeze.cgroups import Hierarchy
from diffkeeper.freeze.freezer import Freezer
open({parent!r} + "/cgroup.procs", "w").write(str(os.getpid()))
freezer = Freezer({ROOT!r}, {str(tmp_path / "other")!r})
freezer.start()
try:
    with freezer.frozen([{parent!r}], 1.0):
        print("frozen")
except FreezeError as error:
    print(error)
freezer.stop()
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=ENVIRONMENT,
    )
    assert "holds DiffKeeper itself" in done.stdout


def test_guard_thaws_at_the_limit(
    parent: str, workers: Callable[..., Worker], freezer: Freezer
) -> None:
    worker = workers()
    with freezer.frozen([parent], 0.05) as frozen:
        time.sleep(0.5)
        assert worker.runs(), "the guard thaws although the block goes on"
        assert frozen.expired
    assert frozen.expired
    with freezer.frozen([parent], 2.0) as frozen:
        assert worker.stands()
    assert not frozen.expired
    assert worker.runs()


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[StuckProcess]:
    """A process that no freezer stops."""
    with sleeping_deeply(tmp_path / "hangs") as stuck:
        yield stuck


def test_process_that_cannot_freeze(
    parent: str,
    workers: Callable[..., Worker],
    freezer: Freezer,
    stuck: StuckProcess,
) -> None:
    worker = workers(f"{parent}/good")
    os.mkdir(f"{parent}/bad")
    Path(parent, "bad", "cgroup.procs").write_text(str(stuck.pid))
    started = time.monotonic()
    with (
        pytest.raises(FreezeError, match="bad"),
        freezer.frozen([f"{parent}/good", f"{parent}/bad"], 0.05),
    ):
        pytest.fail("it must not be entered")
    assert 0.05 <= time.monotonic() - started < 1
    assert worker.runs()
    assert not is_paused(f"{parent}/good")
    assert not is_paused(f"{parent}/bad")


def test_who_does_not_freeze_is_named_and_let_alone(
    parent: str,
    workers: Callable[..., Worker],
    freezer: Freezer,
    stuck: StuckProcess,
) -> None:
    """The others of its container stand a bounded part of the time, not at every capture."""
    worker = workers()
    Path(parent, "cgroup.procs").write_text(str(stuck.pid))
    wait_for(lambda: sleeps_deeply(stuck.pid))
    waits = Path("/proc", str(stuck.pid), "wchan").read_text()
    assert waits != "0", "the kernel tells where a process waits"

    def attempt() -> FreezeError:
        with pytest.raises(FreezeError) as raised, freezer.frozen([parent], 0.02):
            pytest.fail("it must not be entered")
        return raised.value

    for _ in range(limits.FREEZE_ATTEMPTS_MAX):
        error = attempt()
        assert "not frozen within" in str(error)
        assert f"cgroup {parent} did not freeze: process " in str(error)
        assert f"process {stuck.pid} (mkdir) waits in {waits}" in str(error)
        assert error.held_seconds >= 0.02
        assert error.again
    watch = Watch()
    watch.add(str(Path(parent, "freezer.state" if "freezer" in parent else "cgroup.freeze")))
    for _ in range(10):
        error = attempt()
        assert f"process {stuck.pid} (mkdir) waits in {waits}" in str(error)
        assert "3 times in a row" in str(error)
        assert (error.held_seconds, error.again) == (0.0, False)
    assert watch.drain() == [], "nobody was stopped"
    watch.close()
    stuck.release()

    def frozen() -> bool:
        with contextlib.suppress(FreezeError), freezer.frozen([parent], 2.0):
            return worker.stands()
        return False

    wait_for(frozen, 10)
    assert worker.runs()


def test_a_thaw_that_fails_is_not_forgotten(
    parent: str, workers: Callable[..., Worker], freezer: Freezer, tmp_path: Path
) -> None:
    """Neither by the next freeze, nor by guard and journal, until somebody has thawed it."""
    lost, next_one = workers(f"{parent}/lost"), workers(f"{parent}/next")
    control = f"{parent}/lost/{'freezer.state' if 'freezer' in parent else 'cgroup.freeze'}"
    full = os.open("/dev/full", os.O_RDWR)
    with freezer.frozen([f"{parent}/lost"], 5.0):
        pass
    try:
        with pytest.raises(FreezeError, match="not thawed"), freezer.frozen([f"{parent}/lost"], 5):
            # Whatever writes to it fails from now on, by descriptor and by name.
            os.dup2(full, freezer._cached[f"{parent}/lost"].cgroup._control)
            for how in (["--bind", control], ["-o", "remount,bind,ro"]):
                subprocess.run(["mount", *how, control], check=True)
        assert lost.stands()
        for _ in range(3):
            with freezer.frozen([f"{parent}/next"], 5.0):
                assert next_one.stands()
            assert next_one.runs()
        assert (
            f"{parent}/lost".removeprefix(f"{ROOT}/").encode()
            in ((tmp_path / "journal").read_bytes()[16:])
        )
    finally:
        os.close(full)
        subprocess.run(["umount", control], check=False)
    assert lost.runs(20), "the guard goes on trying"
    with freezer.frozen([f"{parent}/next"], 5.0):
        pass
    assert thaw_journal(str(tmp_path / "journal"), ROOT) == []


def test_thawed_whatever_else_fails(
    parent: str, workers: Callable[..., Worker], freezer: Freezer, tmp_path: Path
) -> None:
    worker = workers()
    directory = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(FreezeError), freezer.frozen([parent], 5.0) as frozen:
        os.dup2(directory, freezer._cached[parent].cgroup._requested)
    os.close(directory)
    assert frozen.expired, "nobody knows"
    assert worker.runs()
    assert not is_paused(parent)


def test_not_started(tmp_path: Path, parent: str) -> None:
    freezer = Freezer(ROOT, str(tmp_path / "journal"))
    with pytest.raises(FreezeError, match="not started"), freezer.frozen([parent], 1.0):
        pass


def test_no_journal_no_freeze(tmp_path: Path) -> None:
    freezer = Freezer(ROOT, str(tmp_path / "missing" / "journal"))
    with pytest.raises(FreezeError):
        freezer.start()


def test_journal_survives_and_is_checked(parent: str, tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    assert thaw_journal(path, ROOT) == []
    frozen, running, gone = f"{parent}/frozen", f"{parent}/running", f"{parent}/gone"
    os.mkdir(frozen)
    os.mkdir(running)
    journal = FreezeJournal(path, ROOT)
    journal.write([frozen, running, gone])
    journal.close()
    pause(frozen)
    assert thaw_journal(path, ROOT) == [frozen]
    assert not is_paused(frozen)
    pause(frozen)
    assert thaw_journal(path, ROOT) == [], "the journal is cleared"
    assert is_paused(frozen)
    data = bytearray(Path(path).read_bytes())
    data[:16] = struct.pack("<4sIII", b"DKFZ", 40, 1, 1)
    Path(path).write_bytes(data)
    assert thaw_journal(path, ROOT) == [], "a torn record announces nothing"
    journal = FreezeJournal(path, "/sys")
    journal.write(["/sys/../etc"])
    journal.close()
    with pytest.raises(CorruptionError):
        thaw_journal(path, ROOT)


def test_membership_to_directory(tmp_path: Path) -> None:
    """Layouts of other machines: directories made by hand, since they are names only."""
    for name in ("freezer/docker/x", "unified/docker/x", "unified/only2"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "freezer/cgroup.procs").write_text("")
    (tmp_path / "unified/cgroup.controllers").write_text("")
    hybrid = Hierarchy(str(tmp_path))
    both = b"9:freezer:/docker/x\n1:name=systemd:/y\n0::/docker/x\n"
    assert hybrid.directory(both) == (f"{tmp_path}/freezer/docker/x", "")
    assert hybrid.directory(b"4:freezer:/\n0::/only2\n") == (f"{tmp_path}/unified/only2", "")
    assert hybrid.directory(b"4:cpu,freezer:/\n0::/\n")[1] == "it is in the root cgroup"
    assert "namespace" in hybrid.directory(b"4:freezer:/../z\n")[1]
    assert "not visible" in hybrid.directory(b"4:freezer:/unseen\n")[1]
    pure = tmp_path / "pure"
    (pure / "system.slice/docker-1.scope").mkdir(parents=True)
    (pure / "cgroup.controllers").write_text("")
    assert Hierarchy(str(pure)).directory(b"0::/system.slice/docker-1.scope\n") == (
        f"{pure}/system.slice/docker-1.scope",
        "",
    )
    assert Hierarchy(str(tmp_path / "none")).directory(both)[1]


def test_own_cgroup_namespace(parent: str, tmp_path: Path) -> None:
    """From inside a cgroup namespace, with the host's hierarchy in sight, paths still resolve."""
    os.mkdir(f"{parent}/inside")
    os.mkdir(f"{parent}/beside")
    program = f"""
import os
from diffkeeper.freeze.cgroups import Hierarchy
sibling = os.open("/proc/" + os.environ["SIBLING"] + "/cgroup", os.O_RDONLY)
hierarchy = Hierarchy({ROOT!r})
print(hierarchy.directory(os.read(sibling, 4096))[0])
print({parent!r} + "/inside" in hierarchy.own())
"""
    script = tmp_path / "program.py"
    script.write_text(program)
    enter = f"echo $$ > {parent}/inside/cgroup.procs"
    sibling = subprocess.Popen(["sleep", "60"])
    try:
        Path(parent, "beside", "cgroup.procs").write_text(str(sibling.pid))
        done = subprocess.run(
            ["sh", "-c", f"{enter}; exec unshare -C {sys.executable} {script}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=dict(ENVIRONMENT, SIBLING=str(sibling.pid)),
        )
        assert done.stdout.split() == [f"{parent}/beside", "True"], done.stderr
    finally:
        sibling.kill()
        sibling.wait()


def test_overhead(parent: str, workers: Callable[..., Worker], freezer: Freezer) -> None:
    for _ in range(8):
        workers()
    held: list[float] = []
    total: list[float] = []
    for _ in range(100):
        started = clock.monotonic()
        with freezer.frozen([parent], 1.0) as frozen:
            pass
        total.append(clock.monotonic() - started)
        held.append(frozen.seconds)
        time.sleep(0.002)
    print(
        f"freeze of 8 processes: held {statistics.median(held) * 1000:.2f} ms,"
        f" whole {statistics.median(total) * 1000:.2f} ms (medians)"
    )
    assert statistics.median(total) < 0.05
