"""The writers of a volume: every process that sees it from a mount namespace of its own.

They are found in the mount tables of all processes, so that this works for any container runtime
and needs no socket of one.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from diffkeeper import clock, limits
from diffkeeper.errors import UnsupportedError
from diffkeeper.freeze import overlays, processes
from diffkeeper.freeze.cgroups import Hierarchy, topmost
from diffkeeper.freeze.mappings import Mappings, MappingScanner
from diffkeeper.freeze.namespaces import MountPlace, MountTable, Namespaces, View
from diffkeeper.freeze.observers import Namespace, Observers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence

    from diffkeeper.fsio.mountinfo import Mount

T = TypeVar("T")
_READ_BYTES = 256
__all__ = ["Mappings", "Survey", "Target", "Writers"]

SURVEY_SECONDS_MAX = 0.25  # for which a cheap survey is reused
SURVEY_SECONDS_LONGEST = 5.0  # for which an expensive one is, or while no process begins


@dataclass(frozen=True, slots=True)
class Target:
    """A directory, wherever it is mounted, see `mountinfo.locate`.

    `dev`: its file system as "major:minor", as in mountinfo (on btrfs that is not `st_dev`);
    `root`: its path inside that file system.
    """

    dev: str
    root: str


@dataclass(frozen=True, slots=True)
class Writers:
    """The writers of one target.

    `cgroups`: directories to freeze, topmost only; `pids`: all writing processes; `unfreezable`: a
    sentence for each process that cannot be frozen: while there is one, snapshots are fuzzy;
    `readers`: processes that have it mounted read-only, or that only observe; `observed`: whether
    some only observe, see `observers`; `containers`: number of containers that have it mounted in
    any way, by their cgroups; `at`: begin of the survey, on the monotonic clock.
    """

    cgroups: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    unfreezable: tuple[str, ...] = ()
    readers: tuple[int, ...] = ()
    observed: bool = False
    containers: int = field(default=0, compare=False)
    at: float = field(default=float("-inf"), compare=False)

    @property
    def users(self) -> frozenset[int]:
        """All processes that have it mounted."""
        return frozenset((*self.pids, *self.readers))


class Survey:
    """Finds the writers of volumes. Thread-safe; keeps no descriptor of a process between calls.

    One survey serves all volumes, since it passes over all processes anyway. `passes` counts them.

    A mount at the same place as one of the host's, or of ours, is a copy of it: system services
    have such copies, and so has a monitor with the host's whole tree mounted. A process that sees a
    volume only through a copy is neither writer nor user; if it writes all the same, that is as if
    a process of the host wrote, which is not frozen. A read-only mount makes a user, not a writer;
    so does a namespace of several volumes that nothing is written from, see `observers`.
    """

    def __init__(self, proc_root: str = "/proc", cgroup_root: str = "/sys/fs/cgroup") -> None:
        self._proc_root = proc_root
        self._hierarchy = Hierarchy(cgroup_root, proc_root)
        self._scanners = threading.local()
        self._surveys = threading.local()
        self._namespaces = Namespaces(proc_root)
        self._observers = Observers(proc_root, self._stores)
        self._asked: dict[Target, float] = {}  # when last, on the monotonic clock
        self._lock = threading.Lock()
        self._last = _Pass()
        self.passes = 0
        # Device and path of the directory with our mount points. Copies of mounts below it may
        # outlast the originals.
        self.mounts_in: tuple[str, str] | None = None

    @property
    def _mappings(self) -> MappingScanner:
        """The scanner of this thread: no thread waits for another one's scan, which may be in a
        freeze.
        """
        if not hasattr(self._scanners, "own"):
            self._scanners.own = MappingScanner(self._proc_root)
        scanner: MappingScanner = self._scanners.own
        return scanner

    @contextlib.contextmanager
    def one_survey(self) -> Iterator[None]:
        """Within the block, this thread reads the mappings of each process only once.

        For questions about many volumes at one moment.
        """
        self._surveys.known = {}
        try:
            yield
        finally:
            del self._surveys.known

    def _once(self, key: Hashable, read: Callable[[], T]) -> T:
        """Result of `read`; within `one_survey` the one of the first call for this key."""
        known: dict[Hashable, T] | None = getattr(self._surveys, "known", None)
        if known is None:
            return read()
        if key not in known:
            known[key] = read()
        return known[key]

    def find(self, targets: Sequence[Target]) -> dict[Target, Writers]:
        """The writers of each target, from one pass over all processes (a few ms for hundreds)."""
        with self._lock:
            return self._find(targets)

    def recent(
        self, targets: Sequence[Target], written: Target | None = None, *, quiet: bool = False
    ) -> dict[Target, Writers]:
        """As `find`, but from the last pass if that is recent enough.

        The more a pass costs, the longer its result is reused, so that passes keep to a share of
        one core; and longer while no process begins. It is not reused if it found no writer of
        `written`, which somebody wrote to. The result is the same object until another pass.
        `quiet`: no writes were seen, so a pass of the last seconds is recent enough.
        """
        with self._lock:
            last, age = self._last, clock.monotonic() - self._last.began
            young = age < last.holds or (
                age < SURVEY_SECONDS_LONGEST and (quiet or self._newest() == last.newest)
            )
            unseen = written in last.found and not last.found[written].pids
            unseen = unseen or self._observers.news()
            if young and not unseen and all(target in last.found for target in targets):
                if len(targets) == len(last.found):
                    return last.found
                return {target: last.found[target] for target in targets}
            return self._find(targets)

    def observers_wrote(self, since: float) -> bool:
        """Whether one has written that only observed for the pass that began at `since`."""
        with self._lock:
            return self._observers.wrote_since(since)

    def _newest(self) -> bytes:
        """Number of the process or thread that began last."""
        with open(f"{self._proc_root}/loadavg", "rb", buffering=0) as file:
            return file.read(_READ_BYTES).split()[-1]

    def _find(self, targets: Sequence[Target]) -> dict[Target, Writers]:
        began, cpu, newest = clock.monotonic(), clock.thread_cpu(), self._newest()
        found = self._pass(targets, began)
        cost = clock.thread_cpu() - cpu
        holds = max(SURVEY_SECONDS_MAX, cost / limits.CPU_FRACTION_MAX)
        self._last = _Pass(found, began, min(holds, SURVEY_SECONDS_LONGEST), newest)
        self.passes += 1
        return found

    def _pass(self, targets: Sequence[Target], now: float) -> dict[Target, Writers]:
        by_dev: dict[str, dict[str, Target]] = {}
        for target in targets:
            by_dev.setdefault(target.dev, {})[target.root] = target
        found: dict[Target, _TargetProcesses] = {target: _TargetProcesses() for target in targets}
        if targets:
            # A new volume may have been mounted into namespaces that existed before.
            views = list(self._namespaces.views(afresh=self._asks_anew(targets, now)))
            host = _Host(self._namespaces, self.mounts_in)
            seen = [(view, pids, _seen(view, by_dev, host)) for view, pids in views]
            observing = self._observers.without_writes(
                {view.namespace: _namespace(view, targets) for view, _, targets in seen}, now
            )
            for view, pids, targets_seen in seen:
                for target, held in targets_seen.items():
                    writable = any(mount.writable for mount in held)
                    observed = writable and view.namespace in observing
                    writes = writable and not observed
                    (found[target].writing if writes else found[target].reading).extend(pids)
                    found[target].observed |= observed
        cgroups = _Cgroups(self._proc_root, self._hierarchy)
        return {target: cgroups.writers(pids, now) for target, pids in found.items()}

    def _stores(self, pids: Sequence[int], devices: Collection[str]) -> bool:
        """Whether one of the processes may write to a file without a trace, or has one open for
        writing.
        """
        return any(
            self._mapped(frozenset(pids), dev) != Mappings() or self.open_for_write(pids, dev)
            for dev in devices
        )

    def _asks_anew(self, targets: Sequence[Target], now: float) -> bool:
        """Whether one of the targets was not asked for in the last seconds."""
        trusted = now - limits.SURVEY_TRUST_SECONDS
        known = {target: at for target, at in self._asked.items() if at > trusted}
        self._asked = known | dict.fromkeys(targets, now)
        return not all(target in known for target in targets)

    def unseen_writes(self, pids: Iterable[int], dev: str) -> Mappings:
        """Files on `dev` that one of `pids` can store into unseen, and processes with asynchronous
        I/O.

        Fast enough for the inside of a freeze: about 0.1 ms for each process with PROCMAP_QUERY
        (Linux 6.11), several times that without. It misses an io_uring instance whose rings are in
        memory that the process supplied.
        """
        pids = frozenset(pids)
        return self._once(("mapped", pids, dev), lambda: self._mapped(pids, dev))

    def _mapped(self, pids: frozenset[int], dev: str) -> Mappings:
        mapped = Mappings()
        for pid in pids:
            found = self._once(("of", pid, dev), partial(self._mappings.scan, (pid,), dev))
            mapped.inodes |= found.inodes
            mapped.rings |= found.rings
            mapped.foreign |= found.foreign
        return mapped

    def overlaid(self, found: Mappings, pids: Sequence[int], device: int) -> set[int]:
        """Inodes on `device` (as in st_dev) that are mapped through an overlay.

        pids: processes that have the volume mounted.
        """
        if not found.foreign:
            return set()
        foreign = frozenset(found.foreign)
        return self._once(
            ("overlaid", foreign, tuple(pids), device),
            lambda: overlays.upper_inodes(self._proc_root, foreign, pids, device),
        )

    def mapped_by_anybody(self, dev: str) -> set[int]:
        """Inodes on `dev` that any process of this machine has mapped, shared, writable or not.

        Far too slow for the inside of a freeze.
        """
        found: set[int] = set()
        for name in filter(str.isdecimal, os.listdir(self._proc_root)):
            # A process with more privileges than ours is in no container.
            with contextlib.suppress(UnsupportedError):
                found |= self._mappings.scan([int(name)], dev, writable=False).inodes
        return found

    def members(self, cgroups: Iterable[str]) -> set[int]:
        """The processes in these cgroups and below."""
        found: set[int] = set()
        for directory in cgroups:
            found |= self._once(("below", directory), partial(self._below, directory))
        return found

    def _below(self, directory: str) -> frozenset[int]:
        return frozenset(self._hierarchy.below(directory))

    def open_for_write(self, pids: Iterable[int], dev: str) -> set[int]:
        """Inodes on the file system `dev` that one of `pids` has open for writing."""
        return processes.open_for_write(self._proc_root, pids, dev)


@dataclass(frozen=True, slots=True)
class _Pass:
    """Result of one pass over all processes. began: when, on the monotonic clock; holds: seconds
    for which it is reused; newest: the process that had begun last.
    """

    found: dict[Target, Writers] = field(default_factory=dict)
    began: float = float("-inf")
    holds: float = 0.0
    newest: bytes = b""


@dataclass(slots=True)
class _TargetProcesses:
    """The processes that have one target mounted."""

    writing: list[int] = field(default_factory=list)
    reading: list[int] = field(default_factory=list)
    observed: bool = False


class _Host:
    """Places of the mounts of process 1 and of ours; read when first needed.

    That is after the other namespaces were read: no copy is older than its original.
    """

    def __init__(self, namespaces: Namespaces, mounts_in: tuple[str, str] | None) -> None:
        self._namespaces = namespaces
        self._mounts_in = mounts_in
        self._tables: list[MountTable] = []

    def has(self, place: MountPlace | None) -> bool:
        """Whether one of the host's own mounts, or of ours, is there, or one of ours was."""
        if place is None:
            return False
        device, above = place.on[0], os.path.dirname(place.on[1])
        if (device, above) == self._mounts_in:
            return True
        self._tables = self._tables or self._namespaces.host_tables()
        return any(place in table.places for table in self._tables)


class _Cgroups:
    """Cgroups of processes; each cgroup's list of processes is read once."""

    def __init__(self, proc_root: str, hierarchy: Hierarchy) -> None:
        self._proc_root = proc_root
        self._hierarchy = hierarchy
        self._own = hierarchy.own()
        self._known: dict[int, str] = {}
        self._answers: dict[tuple[tuple[int, ...], tuple[int, ...], bool], Writers] = {}

    def writers(self, found: _TargetProcesses, at: float) -> Writers:
        """The writers of one target. Processes that have ended are skipped.

        The processes of many volumes of one container are resolved once.
        """
        key = tuple(found.writing), tuple(found.reading), found.observed
        if key not in self._answers:
            self._answers[key] = self._tell(found, at)
        return self._answers[key]

    def _tell(self, found: _TargetProcesses, at: float) -> Writers:
        alive: list[int] = []
        cgroups: set[str] = set()
        unfreezable: list[str] = []
        for pid in sorted(found.writing):
            try:
                directory, reason = self._place(pid)
            except OSError:
                continue
            if reason and processes.exiting(self._proc_root, pid):
                # It has left its cgroup already, and runs no code of its own any more.
                continue
            alive.append(pid)
            if directory in self._own:
                reason = "its cgroup holds DiffKeeper itself"
            if reason:
                unfreezable.append(f"process {pid} ({self._name(pid)}): {reason}")
            else:
                cgroups.add(directory)
        readers = [p for p in sorted(found.reading) if not processes.exiting(self._proc_root, p)]
        return Writers(
            tuple(topmost(cgroups)),
            tuple(alive),
            tuple(unfreezable),
            tuple(readers),
            found.observed,
            self._containers((*alive, *readers)),
            at,
        )

    def _containers(self, pids: Iterable[int]) -> int:
        """Number of cgroups of the processes, without those below another one."""
        found: set[str] = set()
        for pid in pids:
            with contextlib.suppress(OSError):
                found.add(self._place(pid)[0])
        return len(topmost(found))

    def _place(self, pid: int) -> tuple[str, str]:
        if pid in self._known:
            return self._known[pid], ""
        with open(f"{self._proc_root}/{pid}/cgroup", "rb", buffering=0) as file:
            directory, reason = self._hierarchy.directory(processes.read_all(file.fileno()))
        if directory and self._hierarchy.same_pids:
            for member in self._hierarchy.members(directory):
                self._known[member] = directory
        return directory, reason

    def _name(self, pid: int) -> str:
        try:
            with open(f"{self._proc_root}/{pid}/comm", encoding="utf-8", errors="replace") as file:
                return file.read().rstrip("\n")
        except OSError:
            return "ended"


_Seen = dict[Target, list["Mount"]]


def _namespace(view: View, targets: _Seen) -> Namespace:
    """A namespace with the mounts that it can write to."""
    writable = [[mount for mount in held if mount.writable] for held in targets.values()]
    mounted = {mount.id: mount for held in writable for mount in held}
    within = len(view.tables) == 1 and all(map(view.tables[0].within, mounted.values()))
    several = sum(map(bool, writable)) > 1
    return Namespace(view.members, view.witness[0], mounted, several=several, within=within)


def _seen(view: View, by_dev: dict[str, dict[str, Target]], host: _Host) -> _Seen:
    """The targets that a namespace has mounted, each with its mounts.

    `by_dev`: file system to root to target.
    """
    seen: _Seen = {}
    for table in view.tables:
        for dev, roots in by_dev.items():
            for mount in table.by_device.get(dev, []):
                held = [roots[above] for above in _at_and_above(mount.root) if above in roots]
                if held and not host.has(table.place(mount)):
                    for target in held:
                        seen.setdefault(target, []).append(mount)
    return seen


def _at_and_above(root: str) -> Iterator[str]:
    """A path inside a file system and its parents, the file system's root last."""
    yield root
    while root != "/":
        root = root.rpartition("/")[0] or "/"
        yield root
