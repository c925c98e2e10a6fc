"""Freezes a set of cgroups for a bounded moment, so that nothing can leave them frozen.

Order of one freeze: journal, guard armed, every cgroup told to freeze, all awaited; work; all
thawed, guard disarmed, journal cleared. A kill of this process at any point in between makes the
guard thaw within milliseconds; a kill of both leaves the journal, from which the next start thaws.
A cgroup that somebody else had paused before is left alone, and so is one that somebody else pauses
during the freeze. So is one whose container has not begun yet: its runtime refuses to start what is
frozen, and it has no program that writes.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffkeeper import clock, limits
from diffkeeper.errors import FreezeError
from diffkeeper.freeze import processes
from diffkeeper.freeze.cgroups import Cgroup, Hierarchy, control_path, topmost
from diffkeeper.freeze.control_watch import Watch, written_after_open
from diffkeeper.freeze.guard import Guard
from diffkeeper.freeze.journal import FreezeJournal, thaw_by_name, thaw_journal
from diffkeeper.freeze.quota import Quotas
from diffkeeper.freeze.stuck import Stuck

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Freezer", "Frozen", "thaw_journal"]

FREEZE_CGROUPS_IDLE_SECONDS_MAX = 60.0
GUARD_RETRY_SECONDS = 1.0

_PRIORITY = 1


class Frozen:
    """A freeze, under way or over.

    `started`: monotonic seconds just before its first write; `reached`: when all were frozen;
    `late`: cgroups that did not freeze in time; `paused_already`: cgroups that somebody else had
    frozen before. After the block, `seconds` is how long the cgroups were frozen.
    """

    def __init__(self, cgroups: Sequence[Cgroup], paused: Sequence[Cgroup], limit: float) -> None:
        self._cgroups = cgroups
        self._ended: bool | None = None
        self.paused_already = tuple(cgroup.directory for cgroup in paused)
        self.started = clock.monotonic()
        self.deadline = self.started + min(limit, limits.FREEZE_SECONDS_MAX)
        self.reached = self.started
        self.late: list[Cgroup] = []
        self.seconds = 0.0

    def remaining(self) -> float:
        """Seconds until the guard thaws; negative afterwards."""
        return self.deadline - clock.monotonic()

    @property
    def expired(self) -> bool:
        """True when a process ran too early: then the copy is not of one instant.

        The guard may have thawed at the limit, or somebody else resumed a cgroup. Inside the block
        it is the answer up to now (about 10 microseconds per cgroup), afterwards the final one.
        """
        if self._ended is not None:
            return self._ended
        late = self.remaining() <= 0
        return late or not all(cgroup.requested() or cgroup.gone for cgroup in self._cgroups)

    def end(self, foreign: bool) -> None:
        """Determine `expired` before the thaw; `foreign`: somebody else wrote to a freezer."""
        try:
            self._ended = self.expired or foreign
        except FreezeError:
            self._ended = True
            raise


class Freezer:
    """Freezes cgroups of the hierarchies under `cgroup_root`. Thread-safe: one freeze at a time.

    `urgent`: whether the last freeze ran with real-time priority, which takes CAP_SYS_NICE.
    """

    def __init__(self, cgroup_root: str, journal_path: str, proc_root: str = "/proc") -> None:
        self._cgroup_root = cgroup_root
        self._journal_path = journal_path
        self._proc_root = proc_root
        self._hierarchy = Hierarchy(cgroup_root, proc_root)
        self.urgent = False
        self._lock = threading.Lock()
        self._guard = Guard()
        self._opened: _Opened | None = None  # from `start` to `stop`
        self._cached: dict[str, _Cached] = {}
        self._owed: set[str] = set()  # cgroups whose thaw failed: every record names them again
        self._stuck = Stuck(proc_root)
        self._quotas = Quotas(cgroup_root)

    @property
    def guard_pid(self) -> int:
        """Process id of the guard; 0 if there is none."""
        return self._guard.pid

    @property
    def guard_stays(self) -> bool:
        """Whether the guard's memory is locked, so that it is on time while others are swapped."""
        return self._guard.stays

    def start(self) -> list[str]:
        """Thaw what the journal names, start the guard; returns what was thawed.

        Raises FreezeError without guard or journal: `frozen` would refuse to work then.
        """
        with self._lock:
            thawed = thaw_journal(self._journal_path, self._cgroup_root)
            try:
                self._opened = self._opened or _Opened.at(self._journal_path, self._cgroup_root)
            except OSError as error:
                raise FreezeError(f"freezing is not possible here: {error}") from error
            self._guard.ensure()
            return thawed

    def stop(self) -> None:
        """End the guard and close all descriptors; waits for a freeze under way to end."""
        with self._lock:
            self._guard.stop()
            for directory in list(self._cached):
                self._forget(directory)
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    @contextlib.contextmanager
    def frozen(self, cgroups: Sequence[str], limit_seconds: float) -> Iterator[Frozen]:
        """Freeze the cgroups (directories, as the survey names them) for the block.

        Only the topmost ones are written to; those that are gone, or have no program yet, are
        skipped. Raises FreezeError, with everything thawed again, when a cgroup is not frozen
        within `limit_seconds`, must not be frozen, or is skipped for a while because it did not
        freeze before. The limit counts from the first write, and does not include waiting for
        another freeze, or for a period of a CPU quota.
        """
        with self._lock:
            self._stuck.check(topmost(cgroups))
            opened = self._started()
            young = [
                c for c in self._select(opened, cgroups) if not self._cached[c.directory].begun
            ]
        # Not under the lock, for which freezes of other containers wait: the disk of a container
        # may be slow.
        young = [cgroup for cgroup in young if self._is_before_start(cgroup)]
        self._quotas.await_turn(topmost(cgroups))
        with self._lock:
            opened = self._started()
            self._retry_thaws()
            held = [c for c in self._select(opened, cgroups) if self._has_begun(c, young)]
            opened.watch.drain()
            paused = [cgroup for cgroup in held if cgroup.requested()]
            ours = [cgroup for cgroup in held if cgroup not in paused]
            if not ours:
                yield from self._freeze_and_thaw(
                    opened, Frozen(held, paused, limit_seconds), held, []
                )
                return
            self._guard.ensure()
            self._refuse_own(ours)
            frozen = Frozen(held, paused, limit_seconds)
            self._announce(opened, frozen, ours)
            try:
                with _uncollected(), self._hurry():
                    yield from self._freeze_and_thaw(opened, frozen, held, ours)
            except FreezeError as error:
                raise self._explained(frozen, error) from error

    def _explained(self, frozen: Frozen, error: FreezeError) -> FreezeError:
        """The error, naming who did not freeze: everything runs again, but that task still
        sleeps.
        """
        named = [
            self._stuck.failed(c.directory, self._hierarchy.below(c.directory), frozen.seconds)
            for c in frozen.late
        ]
        named += [text for c in frozen.late if (text := self._quotas.describe(c.directory))]
        return FreezeError("; ".join([str(error), *named]), held_seconds=frozen.seconds)

    def _freeze_and_thaw(
        self, opened: _Opened, frozen: Frozen, held: list[Cgroup], ours: list[Cgroup]
    ) -> Iterator[Frozen]:
        """Freeze, wait, yield, thaw."""
        try:
            for cgroup in ours:
                cgroup.freeze()
            opened.watch.drain()
            frozen.late = [c for c in held if not c.wait_frozen(frozen.deadline)]
            frozen.reached = clock.monotonic()
            if frozen.late:
                waited_ms = (frozen.reached - frozen.started) * 1000
                raise FreezeError(f"not frozen within {waited_ms:.0f} ms")
            self._stuck.froze(cgroup.directory for cgroup in held)
            yield frozen
        finally:
            self._release(opened, frozen, ours)

    def _release(self, opened: _Opened, frozen: Frozen, ours: list[Cgroup]) -> None:
        """Thaw, whatever else fails; what does not thaw stays with guard and journal."""
        foreign: set[int] = set()
        failures: list[str] = []
        try:
            foreign = written_after_open(opened.watch.drain())
            frozen.end(bool(foreign))
        finally:
            for cgroup in ours:
                if self._cached[cgroup.directory].watch not in foreign:
                    failures += self._thaw(cgroup)
            frozen.seconds = clock.monotonic() - frozen.started
            if ours:
                self._retract(opened.journal)
        if failures:
            raise FreezeError(f"not thawed: {'; '.join(failures)}")

    def _thaw(self, cgroup: Cgroup) -> list[str]:
        """Thaw a cgroup; why that failed, or ""."""
        try:
            cgroup.thaw()
        except FreezeError as error:
            self._owed.add(cgroup.directory)
            return [str(error)]
        return []

    def _retry_thaws(self) -> None:
        """Try again to thaw what could not be thawed: by its path, as guard and next start do."""
        for directory in list(self._owed):
            with contextlib.suppress(FreezeError):
                thaw_by_name(directory)
                self._owed.discard(directory)

    @contextlib.contextmanager
    def _hurry(self) -> Iterator[None]:
        """Run this thread with real-time priority, if allowed: others are frozen until it is done.

        On a busy machine this makes the freeze several times shorter, for it lasts until this
        thread is scheduled. Its own limit bounds what it takes from others.
        """
        policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
        try:
            urgent = os.SCHED_RR | os.SCHED_RESET_ON_FORK
            os.sched_setscheduler(0, urgent, os.sched_param(_PRIORITY))
            self.urgent = True
        except PermissionError:
            self.urgent = False
        try:
            yield
        finally:
            if self.urgent:
                os.sched_setscheduler(0, policy, parameters)

    def _announce(self, opened: _Opened, frozen: Frozen, ours: list[Cgroup]) -> None:
        try:
            files = {cgroup.directory: cgroup.control_path for cgroup in ours}
            self._record(opened.journal, frozen.deadline, files)
        except FreezeError:
            if not self._owed:
                opened.journal.clear()
            raise

    def _record(self, journal: FreezeJournal, deadline: float, files: dict[str, str]) -> None:
        """Journal these cgroups (to control files), and those whose thaw failed, and arm the
        guard.
        """
        owed = {d: path for d in self._owed if (path := control_path(d))}
        files = {**owed, **files}
        record = journal.write(list(files))
        self._guard.arm(deadline, journal.path, record, list(files.values()))

    def _retract(self, journal: FreezeJournal) -> None:
        self._retry_thaws()
        if self._owed:
            self._record(journal, clock.monotonic() + GUARD_RETRY_SECONDS, {})
            return
        self._guard.disarm()
        journal.clear()

    def _refuse_own(self, cgroups: list[Cgroup]) -> None:
        """Raises FreezeError for the guard's own cgroup: a frozen guard never thaws."""
        own = self._hierarchy.own(self._guard.pid)
        for cgroup in cgroups:
            if cgroup.directory in own:
                raise FreezeError(f"cgroup {cgroup.directory} holds DiffKeeper itself")

    def _select(self, opened: _Opened, directories: Sequence[str]) -> list[Cgroup]:
        """The topmost cgroups that still exist, with their descriptors from earlier freezes."""
        if len(directories) > limits.FREEZE_CGROUPS_MAX:
            raise FreezeError(f"more than {limits.FREEZE_CGROUPS_MAX} cgroups to freeze")
        now = clock.monotonic()
        for directory, cached in list(self._cached.items()):
            if now - cached.used > FREEZE_CGROUPS_IDLE_SECONDS_MAX:
                self._forget(directory)
        found = [self._cgroup(opened.watch, path, now) for path in topmost(directories)]
        return [cgroup for cgroup in found if cgroup is not None]

    def _cgroup(self, watches: Watch, directory: str, now: float) -> Cgroup | None:
        cached = self._cached.get(directory)
        if cached is not None:
            cached.cgroup.requested()
            if not cached.cgroup.gone:
                cached.used = now
                return cached.cgroup
            self._forget(directory)
        cgroup = Cgroup.open(directory)
        if cgroup is None:
            return None
        try:
            watch = watches.add(cgroup.control_path)
        except OSError as error:
            cgroup.close()
            if not os.path.exists(directory):
                return None
            raise FreezeError(f"cgroup {directory} can't be watched: {error.strerror}") from error
        self._cached[directory] = _Cached(cgroup, watch, now)
        return cgroup

    def _is_before_start(self, cgroup: Cgroup) -> bool:
        """Whether no program of the container runs in it; looks into the container's root."""
        pids = self._hierarchy.below(cgroup.directory)
        return all(processes.is_runtimes(self._proc_root, pid) for pid in pids)

    def _has_begun(self, cgroup: Cgroup, young: Sequence[Cgroup]) -> bool:
        """Whether a program of the container runs in it; once one did, that is remembered.

        young: where none did a moment ago. None does until a process executes one.
        """
        cached = self._cached[cgroup.directory]
        cached.begun = (
            cached.begun
            or cgroup not in young
            or any(
                processes.has_executed(self._proc_root, pid)
                for pid in self._hierarchy.below(cgroup.directory)
            )
        )
        return cached.begun

    def _started(self) -> _Opened:
        """What `start` opened; raises FreezeError before it, or after `stop`."""
        if self._opened is None:
            raise FreezeError("the freezer is not started")
        return self._opened

    def _forget(self, directory: str) -> None:
        cached = self._cached.pop(directory)
        if self._opened is not None:
            self._opened.watch.remove(cached.watch)
        cached.cgroup.close()


@dataclass(frozen=True, slots=True)
class _Opened:
    """What a freezer has open while it can freeze; `watch`: for what others write."""

    journal: FreezeJournal
    watch: Watch

    @classmethod
    def at(cls, journal_path: str, cgroup_root: str) -> _Opened:
        """Both, or OSError."""
        journal = FreezeJournal(journal_path, cgroup_root)
        try:
            return cls(journal, Watch())
        except OSError:
            journal.close()
            raise

    def close(self) -> None:
        """Close both."""
        self.watch.close()
        self.journal.close()


@dataclass(slots=True)
class _Cached:
    cgroup: Cgroup
    watch: int
    used: float
    begun: bool = False


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Disable the cycle collector for the block: it would stop all threads for 20 ms.

    There is one freeze at a time, so nobody else switches it.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
