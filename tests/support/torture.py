"""The churn runs on a volume while it is captured; each snapshot is held against the truth.

The truth is a copy of the directory made inside the very freeze that the snapshot was taken in,
after the rig's own look: what lands in the freeze and after the look shows as a difference.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from diffkeeper.freeze.cgroups import Hierarchy
from diffkeeper.snapshot.policy import CapturePolicy
from tests.support import cgroups
from tests.support.capture_rig import CaptureRig
from tests.support.churn import tally
from tests.support.churn.steps import chosen
from tests.support.namespaces import in_namespace
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from diffkeeper.format.records import SnapshotRecord
    from diffkeeper.freeze.freezer import Freezer, Frozen
    from diffkeeper.snapshot.watched_volume import WatchedVolume
    from diffkeeper.sources.ebpf.probe import Sources

# Long enough for the copy of the truth inside the freeze.
FREEZE_SECONDS = 5.0
HIERARCHY = Hierarchy("/sys/fs/cgroup")
CGROUPS = HIERARCHY.v1 or HIERARCHY.v2  # where a freezer is; empty without one
DIFFERENCES_SHOWN = 5
RANGES_SHOWN = 6
LOG_SECONDS = 20.0  # of the steps that are shown with a difference
LOG_LINES = 40
HEAD_START_SECONDS = 0.5
# Steps that may move a file together with its directory; shown whatever they name.
MOVES = ("rename_directory", "remake_directory", "exchange", "move_out", "move_in", "swap_out")

# Kinds that a source cannot see by its nature, or that a freeze does not stop.
_LANDS_LATE = "direct I/O under way lands in the freeze, and only eBPF tells of its end"
LEFT_OUT: dict[str, dict[str, str]] = {
    "ebpf": {},
    "inotify": {
        "aio_direct": _LANDS_LATE,
        "uring_direct": _LANDS_LATE,
        "map_beside": "a mapping that came and went, of a file that stays open, gives no hint",
        "link_outside": "a write under a name in a directory that is not watched gives no hint",
    },
    "scan": {"aio_direct": _LANDS_LATE, "uring_direct": _LANDS_LATE},
}


# Kinds after which a file system reads as nobody wrote it.
LEFT_OUT_OF: dict[str, dict[str, str]] = {
    "xfs": {
        "write_from_mapping": "a write that ends early, by a fault in its source, leaves bytes past"
        " its end in the page cache; they vanish with the page, without a change",
    },
}


class CopyingFreezer:
    """The real freezer; before each thaw it copies the live directory.

    Every byte is read: on XFS a look for holes may find one for a moment where there is data.
    """

    def __init__(self, real: Freezer, live: Path, copy: Path) -> None:
        self.real = real
        self._live = live
        self.copy = copy
        self.copied = False
        self.copied_at = 0.0
        self.inodes: dict[str, int] = {}  # of the names that were copied
        self.seconds_max = 0.0  # of a freeze, without the copy

    @contextlib.contextmanager
    def frozen(self, cgroups: Sequence[str], limit_seconds: float) -> Iterator[Frozen]:
        """As the real one."""
        subprocess.run(["rm", "-rf", str(self.copy)], check=True)
        with self.real.frozen(cgroups, limit_seconds) as frozen:
            yield frozen
            self.seconds_max = max(self.seconds_max, time.monotonic() - frozen.started)
            done = subprocess.run(
                ["cp", "-a", "--sparse=never", str(self._live), str(self.copy)], check=False
            )
            if frozen.expired:
                return  # the snapshot claims no instant
            done.check_returncode()
            self.inodes = inodes_of(self._live)
            self.copied_at = time.monotonic()
            self.copied = True


def cgroup_of_writers() -> Path:
    """The cgroup that all writers of this process are in."""
    return Path(CGROUPS, f"diffkeeper-torture-{os.getpid()}")


@contextlib.contextmanager
def stopped() -> Iterator[None]:
    """All writers stand still, while snapshots are compared.

    Else, on a slow machine, so much changes between two captures that every file is hinted many
    times over, and no single hint is ever needed.
    """
    members = cgroup_of_writers() / "cgroup.procs"
    pids = [int(pid) for pid in members.read_text().split()]
    _signal(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(pids, signal.SIGCONT)


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@contextlib.contextmanager
def writers(live: Path, command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a mount namespace and a cgroup of its own, with `live` mounted there.

    It sees `live` at its own place as well, and what lies beside it, so that it can rename between
    the two: across mounts nothing is renamed.
    """
    mount = log.parent / "mount"
    mount.mkdir(exist_ok=True)
    cgroup = cgroup_of_writers()
    cgroup.mkdir()
    script = f"mount --bind {live} {mount} && exec {' '.join(command)}"
    with open(log, "wb") as output:
        child = subprocess.Popen(
            in_namespace(script, cgroups=[cgroup]), stdout=output, stderr=output
        )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        deadline = time.monotonic() + 10
        while pids := (cgroup / "cgroup.procs").read_text().split():
            assert time.monotonic() < deadline, "the writers do not end"
            _signal([int(pid) for pid in pids], signal.SIGKILL)
            time.sleep(0.02)
        cgroups.remove(cgroup)


@dataclass
class Plan:
    """What runs: everything that a difference is to be found again with."""

    fs: str
    source: str
    seed: str
    snapshots: int
    processes: int = 2
    threads: int = 2
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    seconds_max: float = 300.0

    @property
    def left_out(self) -> list[str]:
        """Names of the kinds that don't take part."""
        return [*self.without, *LEFT_OUT[self.source], *LEFT_OUT_OF.get(self.fs, {})]

    @property
    def kinds(self) -> list[str]:
        """Names of the kinds that take part."""
        return chosen(self.only, self.left_out)

    def __str__(self) -> str:
        shape = f"{self.processes} processes of {self.threads} threads"
        chosen_kinds = f"only {','.join(self.only)}" if self.only else "all kinds"
        left = ",".join(self.left_out)
        run = f"{self.fs}, {self.source}, seed {self.seed}, {shape}"
        return f"{run}, {chosen_kinds} but {left or 'none'}"


@dataclass
class TortureResult:
    """How a run went."""

    compared: int = 0
    differences: list[str] = field(default_factory=list)
    late: int = 0  # differences that the next comparison makes up for, as documented
    fuzzy: list[str] = field(default_factory=list)  # why, of snapshots that claim no instant
    freeze_ms_max: float = 0.0
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __str__(self) -> str:
        done = ", ".join(f"{kind} {done}/{failed}" for kind, (done, failed) in self.counts.items())
        return (
            f"{self.compared} snapshots compared, {len(self.differences)} differences,"
            f" {self.late} late,"
            f" {len(self.fuzzy)} fuzzy,"
            f" freeze at most {self.freeze_ms_max:.1f} ms; done/failed: {done}"
        )


class WrongSource(Exception):
    """The source that a plan asks for is not to be had here."""


class Torture:
    """One run; `disk` holds the live directory, `base` everything else."""

    def __init__(self, plan: Plan, disk: Path, base: Path, sources: Sources) -> None:
        self.plan = plan
        self.base = base
        self.sources = sources
        self.live = disk / "live"
        self.outside = disk / "outside"
        self.records = base / "records"
        for directory in (self.records, self.live, self.outside):
            directory.mkdir()
        self.random = random.Random(plan.seed)
        self.result = TortureResult()
        self.opened: CaptureRig | None = None
        self.compared_at = 0.0  # the freeze of the last snapshot that was compared

    def close(self) -> None:
        """Gives everything back, and removes the live directory."""
        self.shut()
        subprocess.run(["rm", "-rf", str(self.live), str(self.outside)], check=True)

    @property
    def rig(self) -> CaptureRig:
        """The rig, which is open."""
        assert self.opened is not None
        return self.opened

    def open(self) -> None:
        """A rig on what is there; raises WrongSource."""
        policy = CapturePolicy(source=self.plan.source, freeze_seconds_max=FREEZE_SECONDS)
        self.opened = CaptureRig(self.base, policy, self.sources, live=self.live)
        self.freezer = CopyingFreezer(self.opened.context.freezer, self.live, self.base / "copy")
        self.opened.context.freezer = self.freezer  # type: ignore[assignment]  # the real one inside
        if self.opened.watched.watcher.source.name != self.plan.source:
            raise WrongSource(self.opened.watched.watcher.reason)

    def shut(self) -> None:
        """The rig ends as it does with the daemon; the volume goes on to change."""
        if self.opened is not None:
            self.result.freeze_ms_max = max(
                self.result.freeze_ms_max, self.freezer.seconds_max * 1000
            )
            self.opened.context.freezer = self.freezer.real
            self.opened.close()
            self.opened = None

    def command(self) -> list[str]:
        """The churn's command line."""
        plan = self.plan
        command = [sys.executable, "-m", "tests.support.churn", str(self.live), plan.seed]
        command += ["--outside", str(self.outside), "--records", str(self.records)]
        command += ["--processes", str(plan.processes), "--threads", str(plan.threads)]
        return [*command, "--kinds", ",".join(plan.kinds)]

    @contextlib.contextmanager
    def busy(self) -> Iterator[Iterator[int]]:
        """While the churn runs: numbers of turns, until enough was compared or time is up."""
        output = self.base / "output"
        deadline = time.monotonic() + self.plan.seconds_max
        with writers(self.live, self.command(), output) as child:

            def turns() -> Iterator[int]:
                for turn in itertools.count():
                    if self.result.compared >= self.plan.snapshots or self.result.differences:
                        return
                    if time.monotonic() > deadline:
                        return
                    assert child.poll() is None, (
                        f"{self.plan}: the churn ended: {output.read_text()}"
                    )
                    yield turn

            yield turns()
        self.result.counts = tally.read(self.records / "counts", self.plan.kinds)

    def run(self) -> TortureResult:
        """The rig starts while the volume is busy, and captures it at irregular intervals."""
        with self.busy() as turns:
            time.sleep(self.random.random() * HEAD_START_SECONDS)
            self.open()
            for _ in turns:
                self.turn()
                time.sleep(self.random.choice((0.0, 0.0, 0.05, 0.2)))
        self.shut()
        return self.result

    def turn(self) -> None:
        """One capture, and the comparison if there was a freeze and a snapshot."""
        self.freezer.copied = False
        snapshot = self.rig.capture_of("interval", self.rig.writers())
        if snapshot is not None and snapshot.consistency == "fuzzy":
            self.result.fuzzy.append(snapshot.cause)
        elif snapshot is not None and self.freezer.copied:
            with stopped():
                self.compare(snapshot)
        else:
            time.sleep(0.05)

    def check_rest(self) -> None:
        """Nobody writes any more: the next snapshot is what is on disk."""
        self.rig.capture_of("manual", self.rig.writers())
        head = self.rig.state.head
        assert head is not None
        replayed, copy = self.rig.replay(head, "rest"), self.base / "copied"
        # A copy, since a file may have another name outside.
        subprocess.run(["cp", "-a", str(self.live), str(copy)], check=True)
        found = difference(describe(copy), describe(replayed))
        self.result.differences += [f"at rest: {line}" for line in found[:DIFFERENCES_SHOWN]]
        subprocess.run(["rm", "-rf", str(replayed), str(copy)], check=True)

    def compare(self, snapshot: SnapshotRecord) -> None:
        """Entry by entry and byte by byte."""
        replayed = self.rig.replay(snapshot, "replay")
        found = self.unexcused(difference(describe(self.freezer.copy), describe(replayed)))
        for line in found[:DIFFERENCES_SHOWN]:
            self.result.differences.append(
                f"snapshot {snapshot.seq}, {self.rig.watched.watcher.source.name}: {line}"
                f"{self.explained(line, replayed)}"
            )
        subprocess.run(["rm", "-rf", str(replayed)], check=True)
        self.result.compared += 1

    def unexcused(self, found: list[str]) -> list[str]:
        """Differences that no document tells of."""
        named = given_names(self.records.glob("log-*"), self.compared_at, self.freezer.copied_at)
        numbers = {line: self.freezer.inodes.get(path_of(line), 0) for line in found}
        late = {n for line, n in numbers.items() if may_be_late(self.rig.watched, n, named)}
        self.compared_at = self.freezer.copied_at
        self.result.late += len(late)
        return [line for line, number in numbers.items() if number not in late]

    def explained(self, line: str, replayed: Path) -> str:
        """Which bytes differ, and what was done to the file lately."""
        freezer = self.freezer
        logs = list(self.records.glob("log-*"))
        return explained(line, freezer.copy, replayed, freezer.inodes, logs, freezer.copied_at)


def inodes_of(top: Path) -> dict[str, int]:
    """Inode numbers of all that is below, by relative path."""
    return {
        os.path.relpath(os.path.join(at, name), top): os.lstat(os.path.join(at, name)).st_ino
        for at, _, names in os.walk(top)
        for name in names
    }


def path_of(line: str) -> str:
    """The file that a difference names, below the top."""
    return os.fsdecode(eval(line.partition(": ")[0])).lstrip("/")  # a repr of ours


def explained(
    line: str, copy: Path, replayed: Path, inodes: dict[str, int], logs: Sequence[Path], end: float
) -> str:
    """Which bytes of the file that a difference names differ, and what was done to it lately.

    inodes: numbers by path, as of the copy; end: when that was made, on the monotonic clock.
    """
    path = path_of(line)
    number = inodes.get(path, 0)
    parts = ranges(copy / path, replayed / path)
    names = {other for other, inode in inodes.items() if inode == number} | {path}
    steps = [
        f"{float(step.split()[0]) - end:+.6f} {log.parent.name}/{log.name} {step}"
        for log in logs
        for step in whole_lines(log)
        if ({*names, f"#{number}"} & set(step.split()[5:]) or step.split()[2] in MOVES)
        and float(step.split()[1]) > end - LOG_SECONDS
        and float(step.split()[0]) < end
    ]
    steps.sort(key=lambda step: step.split()[2])
    told = f" inode {number}, names {sorted(names)}, bytes {parts}"
    return "\n    ".join([told, *steps[-LOG_LINES:]])


def whole_lines(log: Path) -> list[str]:
    """Of the last line only a part may be there yet: who writes it runs on."""
    return log.read_text().rpartition("\n")[0].splitlines()


def given_names(logs: Iterable[Path], begin: float, end: float) -> set[int]:
    """Inode numbers of what was given another name meanwhile, by the monotonic clock."""
    steps = [step.split() for log in logs for step in whole_lines(log)]
    return {
        int(note[1:])
        for step in steps
        if float(step[1]) > begin and float(step[0]) < end
        for note in step[5:]
        if note.startswith("+")
    }


def may_be_late(watched: WatchedVolume, number: int, named: set[int]) -> bool:
    """Whether a file that is not as it was in the freeze is one that inotify gave no hint of.

    The documents say so of one that was changed under a name which came and went between two looks
    (`named`: inode numbers of what was given a name since the last snapshot), and that a comparison
    finds it soon: one is due, and is what the next capture begins with.
    """
    source, comparison = watched.watcher.source, watched.comparison
    if source.name != "inotify" or number not in named:
        return False
    assert comparison.due <= time.monotonic() + comparison._soon, "a comparison comes soon"
    comparison.due = 0.0
    return True


def ranges(left: Path, right: Path) -> str:
    """The ranges of two files that differ, in pages."""
    if not (left.is_file() and right.is_file()):
        return ""
    one, other = left.read_bytes(), right.read_bytes()
    found: list[list[int]] = []
    for at in range(0, max(len(one), len(other)), 4096):
        if one[at : at + 4096] != other[at : at + 4096]:
            if found and found[-1][1] == at:
                found[-1][1] = at + 4096
            else:
                found.append([at, at + 4096])
    shown = ", ".join(f"{start}-{end}" for start, end in found[:RANGES_SHOWN])
    return f"{shown} in {len(found)} ranges"
