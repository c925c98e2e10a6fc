"""What is lost on the way is noticed, and nothing of the volume is: no room, no watches, kills.

The volume is busy all the while (`tests/support/churn`), and each snapshot that is taken is held
against a copy made in the same freeze.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from diffkeeper import counters, failpoint, limits
from diffkeeper.errors import NoSpaceError
from diffkeeper.failpoint import FailpointError
from diffkeeper.snapshot.policy import CapturePolicy
from diffkeeper.sources import ladder
from diffkeeper.sources.ebpf import ebpf_source, maps, marks
from diffkeeper.sources.ebpf.probe import Sources
from diffkeeper.sources.inotify import InotifySource
from tests.support import disks, torture
from tests.support.capture_rig import CaptureRig
from tests.support.torture import LEFT_OUT, Plan, Torture
from tests.support.trees import describe, difference
from tests.support.user_namespace import lines_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

SNAPSHOTS = int(os.environ.get("TORTURE_LOSS_SNAPSHOTS", "3"))
SEED = os.environ.get("TORTURE_SEED", "1")
FILES_MAX = 8
WATCHES_MAX = 10
POINTS = (
    "capture.drained",
    "capture.precopied",
    "capture.frozen",
    "capture.thawed",
    "capture.before_commit",
)

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0 or not torture.CGROUPS, reason="needs root and a cgroup freezer"
    ),
    pytest.mark.timeout(600),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def shared() -> Iterator[Sources]:
    """The real programs are compiled once, for what needs no small maps."""
    with contextlib.closing(Sources()) as made:
        yield made


@pytest.fixture
def sources() -> Iterator[Sources]:
    """Programs of this test's own, compiled with the limits that it set."""
    with contextlib.closing(Sources()) as made:
        yield made


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    """No failpoint is left armed."""
    yield
    failpoint.disarm()


def plan_for(disk: Path, source: str, *, coarser: str = "") -> Plan:
    """`coarser`: the source that it may fall back to, whose blind spots count then."""
    kind = "xfs" if "xfs" in str(disk) else "ext4"
    return Plan(kind, source, SEED, SNAPSHOTS, without=tuple(LEFT_OUT.get(coarser, ())))


def counted(name: str) -> float:
    """A counter's sum over all labels."""
    return sum(value for (found, _), value in counters.counts().items() if found == name)


def assert_nothing_lost(run: Torture) -> None:
    """Neither while it was busy nor at rest."""
    run.check_rest()
    shown = "\n".join(run.result.differences)
    assert not run.result.differences, f"{run.plan}:\n{shown}"
    assert run.result.compared > 0, f"{run.plan}: {run.result}"


# Maps without room

DIRECT = ("direct", "aio_direct", "uring_direct", "write", "append", "rename", "unlink")

TINY = [
    (maps, "EBPF_CHUNKS_MAX", 4, "full_files"),
    (maps, "EBPF_FILES_MAX", 1, "full_volumes"),
    (maps, "EBPF_WRITES_MAX", 1, "lost"),
    (marks, "MARKS_PENDING_MAX", 4, "lost"),
]


@pytest.mark.parametrize(("module", "limit", "value", "shown"), TINY, ids=[t[1] for t in TINY])
def test_maps_of_a_handful_of_entries(
    module: ModuleType, limit: str, value: int, shown: str, disk: Path, tmp_path: Path,
    sources: Sources, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A chunk without room marks its file, a file its volume; what is lost widens the search."""
    monkeypatch.setattr(module, limit, value)
    if limit == "EBPF_FILES_MAX":
        monkeypatch.setattr(maps, "EBPF_CHUNKS_MAX", value)
    if sources.load():
        pytest.skip(sources.load())
    assert sources._program is not None
    program, lost = sources._program, counted("ebpf_lost_total")

    def seen() -> dict[str, float]:
        return program.counts() | {"lost": counted("ebpf_lost_total") - lost}

    # How much happens between two captures depends on the machine.
    plan = replace(plan_for(disk, "ebpf"), snapshots=20 * SNAPSHOTS)
    if limit == "EBPF_WRITES_MAX":
        # Two must be under way at once.
        plan = replace(plan, only=DIRECT)
    run = Torture(plan, disk, tmp_path, sources)
    try:
        with run.busy() as turns:
            run.open()
            for _ in turns:
                run.turn()
                if run.result.compared >= SNAPSHOTS and seen()[shown]:
                    break
        assert_nothing_lost(run)
    finally:
        run.close()
    assert seen()[shown] > 0, f"nothing was lost: {seen()}"


def test_files_to_watch_without_room(
    disk: Path, tmp_path: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More files than eBPF can watch: inotify takes over, and says why."""
    monkeypatch.setattr(maps, "EBPF_WATCHED_MAX", FILES_MAX)
    if sources.load():
        pytest.skip(sources.load())
    run = Torture(plan_for(disk, "ebpf", coarser="inotify"), disk, tmp_path, sources)
    for number in range(2 * FILES_MAX):  # writers that are slow have made few
        (run.live / f"kept{number}").touch()
    fall_back(run, "inotify", "files to watch with eBPF")


# Watches without room


def fall_back(run: Torture, to: str, why: str, *, partly: bool = False) -> None:
    """Captures go on with a coarser source, or with a part that is compared, which says why."""
    try:
        with run.busy() as turns:
            run.open()
            for _ in turns:
                run.turn()
        assert_nothing_lost(run)
        watched = run.rig.watched
        assert watched.watcher.source.name == to
        assert why in watched.watcher.reason
        assert bool(watched.watcher.source.unwatched) is partly
    finally:
        run.close()


@pytest.mark.parametrize("source", ["ebpf", "inotify"])
def test_ten_watches(
    source: str, disk: Path, tmp_path: Path, shared: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More directories than watches: those without one are compared each time."""
    few = functools.partial(InotifySource, WATCHES_MAX)
    monkeypatch.setattr(ladder, "InotifySource", few)
    monkeypatch.setattr(ebpf_source, "InotifySource", few)
    run = Torture(plan_for(disk, source), disk, tmp_path, shared)
    for number in range(2 * WATCHES_MAX):
        (run.live / f"kept{number}").mkdir()
    fall_back(run, source, f"more than {WATCHES_MAX} directories to watch", partly=True)


LIMITED = """
import sys
from pathlib import Path
from diffkeeper.snapshot.policy import CapturePolicy
from tests.support.capture_rig import CaptureRig
from tests.support.trees import describe, difference
Path("/proc/sys/user/max_inotify_watches").write_text("10")
with CaptureRig(Path(sys.argv[1]), CapturePolicy(source="inotify")) as rig:
    for number in range(20):
        (rig.live / f"d{number}").mkdir()
        (rig.live / f"d{number}" / "f").write_text(str(number))
    rig.capture()
    source = rig.watched.watcher.source
    print(source.name, source.unwatched, rig.watched.watcher.reason)
    replayed = rig.replay(rig.capture(), "replayed")
    print(difference(describe(rig.live), describe(replayed)))
    Path("/proc/sys/user/max_inotify_watches").write_text("1000")
    (rig.live / "d7" / "f").write_text("changed")
    rig.capture()
    print(source is rig.watched.watcher.source, source.unwatched, source.why_unwatched)
    (rig.live / "d8" / "f").write_text("changed, too")
    assert source.pending()
    replayed = rig.replay(rig.capture(), "again")
    print(difference(describe(rig.live), describe(replayed)))
"""


def test_the_kernel_s_own_watch_limit(tmp_path: Path) -> None:
    """In a user namespace, whose limit is its own. Raised, it has all of the volume watched."""
    base = tmp_path / "base"
    base.mkdir()
    source, differs, again, still = lines_of(LIMITED, base)
    assert source.startswith("inotify 19 ")
    assert "user.max_inotify_watches" in source
    assert (differs, again, still) == ("[]", "True 0 ", "[]")


# Start-up


@pytest.mark.parametrize("source", ["ebpf", "inotify"])
def test_starts_while_it_is_busy(source: str, disk: Path, tmp_path: Path, shared: Sources) -> None:
    """Again and again: what comes before, during and right after a start is in the snapshots."""
    run = Torture(plan_for(disk, source), disk, tmp_path, shared)
    try:
        with run.busy() as turns:
            for _ in turns:
                run.open()
                for _ in range(2):
                    run.turn()
                run.shut()
        run.open()
        assert_nothing_lost(run)
    finally:
        run.close()


# Captures that fail half way


@pytest.mark.parametrize("source", ["ebpf", "inotify"])
def test_failures_at_every_point(source: str, disk: Path, tmp_path: Path, shared: Sources) -> None:
    """What a capture drained before it failed is in the next one."""
    run = Torture(plan_for(disk, source), disk, tmp_path, shared)
    failed = dict.fromkeys(POINTS, 0)
    try:
        with run.busy() as turns:
            run.open()
            run.turn()
            for turn in turns:
                point = POINTS[turn % len(POINTS)]
                failpoint.arm(f"{point}=error")
                try:
                    run.turn()
                except FailpointError:
                    failed[point] += 1
                failpoint.disarm()
                time.sleep(0.05)
                run.turn()
            for point, count in failed.items():
                if not count:
                    failpoint.arm(f"{point}=error")
                    with pytest.raises(FailpointError):
                        run.turn()
        assert_nothing_lost(run)
    finally:
        run.close()


@pytest.mark.parametrize("source", ["ebpf", "inotify"])
def test_no_freeze_to_be_had(source: str, disk: Path, tmp_path: Path, shared: Sources) -> None:
    """Every freeze ends early: such snapshots claim no instant, and the next one has it all."""
    run = Torture(plan_for(disk, source), disk, tmp_path, shared)
    try:
        with run.busy() as turns:
            run.open()
            watched = run.rig.watched
            patient = watched.policy
            for turn in turns:
                hasty = replace(patient, freeze_seconds_max=0.000_1)
                watched.policy = patient if turn % 2 else hasty
                run.turn()
            watched.policy = patient
        assert_nothing_lost(run)
        assert run.result.fuzzy, "no freeze ended early"
    finally:
        run.close()


def test_no_room_for_a_snapshot(tmp_path: Path, shared: Sources) -> None:
    """The store's disk is full in the middle; with room again the next snapshot has it all."""
    small = tmp_path / "small"
    small.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(small)]
    subprocess.run(command, check=True)
    live = tmp_path / "live"
    try:
        with CaptureRig(small, CapturePolicy(source="ebpf"), shared, live=live) as rig:
            (live / "large").write_bytes(os.urandom(8 * limits.MIB))
            rig.capture()
            disks.fill(small / "filler")
            for turn in range(3):
                overwrite(live, turn)
                with pytest.raises(NoSpaceError):
                    rig.capture()
            (small / "filler").unlink()
            replayed = rig.replay(rig.capture(), "replayed")
            assert difference(describe(live), describe(replayed)) == []
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def overwrite(live: Path, turn: int) -> None:
    """A part of the large file that no later turn touches, and a file of its own."""
    with open(live / "large", "r+b") as file:
        file.seek(turn * limits.MIB)
        file.write(os.urandom(limits.MIB))
    (live / f"new{turn}").write_bytes(os.urandom(100_000))
