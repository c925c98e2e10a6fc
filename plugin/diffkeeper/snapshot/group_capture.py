"""Captures volumes that are written together: one freeze, one instant, one transaction.

A volume alone is a group of one. The phases of each member are those of `VolumeCapture`; the order
is: drain and pre-copy all until little is left, freeze the writers of all, copy the rest of all,
thaw, process it, commit all. Nothing of any member is visible before all of it is.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from diffkeeper import clock, counters, failpoint, limits
from diffkeeper.errors import FreezeError, UnsupportedError
from diffkeeper.freeze.cgroups import topmost
from diffkeeper.snapshot.outcome import Budget, Outcome
from diffkeeper.snapshot.volume_state import commit_together

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diffkeeper.format.records import SnapshotRecord
    from diffkeeper.freeze.freezer import Freezer
    from diffkeeper.freeze.writers import Writers
    from diffkeeper.snapshot.volume_capture import VolumeCapture

PRECOPY_ROUNDS_MAX = 3

_FROZEN_ROUNDS_MAX = 3
_PRECOPY_ENOUGH_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class GroupVolume:
    """A member of the group, and the processes that have it mounted."""

    snapshotter: VolumeCapture
    writers: Writers


def capture(
    members: Sequence[GroupVolume], reason: str, *, freeze: bool = True
) -> list[SnapshotRecord | None]:
    """Record what changed in the members as new snapshots of one instant; in the members' order.

    None for a member whose newest snapshot is still right. Raises NoSpaceError, LostError, OSError,
    …: nothing was recorded of any member then, and everything is captured again later.
    """
    by_id = sorted(members, key=lambda member: member.snapshotter.volume_id)
    with contextlib.ExitStack() as locks:
        for member in by_id:
            locks.enter_context(member.snapshotter.lock)
        alive = [member for member in by_id if not member.snapshotter.closed]
        taken = _relying(alive, reason, freeze) if alive else {}
    return [taken.get(member.snapshotter.volume_id) for member in members]


def _relying(
    members: Sequence[GroupVolume], reason: str, freeze: bool
) -> dict[int, SnapshotRecord]:
    """Capture; repeat if a source failed or lost hints meanwhile, with its replacement.

    A source that loses hints in every attempt is given up.
    """
    while True:
        sources = [member.snapshotter.watched.source for member in members]
        capture = _GroupCapture(members, reason, freeze)
        try:
            return capture.run()
        except (UnsupportedError, OSError):
            for member in members:
                member.snapshotter.replace_broken()
            replaced = [member.snapshotter.watched.source for member in members] != sources
            if not replaced and not capture.missed:
                raise
            for member in members:
                member.snapshotter.forget()


class _GroupCapture:
    """One capture of a group whose members are locked."""

    def __init__(self, members: Sequence[GroupVolume], reason: str, freeze: bool) -> None:
        self._members = [member.snapshotter for member in members]
        self._reason = reason
        self._started = clock.monotonic()
        self._outcome = Outcome()
        self._at: VolumeCapture | None = None
        self.missed = False  # it failed, and a member's source lost hints meanwhile
        wanted = {
            cgroup
            for member in members
            if freeze and member.snapshotter.policy.freeze
            for cgroup in member.writers.cgroups
        }
        self._cgroups = topmost(wanted)
        self._freeze = freeze
        for member in members:
            member.snapshotter.begin(
                member.writers, still=not self._cgroups, share=len(self._members)
            )

    def run(self) -> dict[int, SnapshotRecord]:
        """The new snapshots by volume id."""
        try:
            with _counted(self._members), self._members[0].tools.store.holding():
                return self._run()
        except BaseException:
            if self._at is not None:
                self._at.faulty = True
            self.missed = any(member.watched.source.missed() for member in self._members)
            for member in self._members:
                member.forget()
            raise

    def _each(self) -> Iterator[VolumeCapture]:
        """The members in turn; an exception in the loop body is attributed to the current one."""
        for member in self._members:
            self._at = member
            yield member
        self._at = None

    def _run(self) -> dict[int, SnapshotRecord]:
        # No short cut: every member has to drain its hints.
        urgent = self._reason != "interval"
        if not any([member.drain(self._started, urgent=urgent) for member in self._each()]):
            return {}
        failpoint.hit("capture.drained")
        for member in self._each():
            member.precopy()
        if all([member.same() for member in self._each()]):
            for member in self._each():
                member.end()
            return {}
        failpoint.hit("capture.precopied")
        if self._cgroups:
            self._frozen()
        else:
            self._until_quiet()
        failpoint.hit("capture.thawed")
        for member in self._each():
            member.end_looks(self._started)
        self._name_unfreezable()
        return self._commit()

    def _name_unfreezable(self) -> None:
        found = {
            text: None for m in self._members if m.policy.freeze for text in m.writers.unfreezable
        }
        if found and self._freeze and self._outcome.fuzzy:
            self._outcome.fuzzy += f"; not freezable: {', '.join(found)}"

    # Looking

    def _until_quiet(self) -> None:
        """Scan without a freeze, until one round sees nothing change in any member."""
        for _ in range(PRECOPY_ROUNDS_MAX):
            self._outcome.time_ns = clock.now_ns()
            if all([member.look_again() for member in self._each()]):
                return
        if any([member.moved() for member in self._each()]):
            self._outcome.fuzzy = "written to while it was read, by a process that was not frozen"

    def _converge(self) -> None:
        """More pre-copy rounds while they take long, so that little is left for the freeze."""
        for _ in range(PRECOPY_ROUNDS_MAX):
            started = clock.monotonic()
            for member in self._each():
                member.precopy_more()
            if clock.monotonic() - started < _PRECOPY_ENOUGH_SECONDS:
                return

    def _frozen(self) -> None:
        """Freeze the writers, copy what is still dirty to memory, thaw, process the copy.

        A freeze that fails is tried again: a writer that waits for its disk cannot be frozen at
        that moment, and what was too much to copy has been copied meanwhile.
        """
        for _ in range(limits.FREEZE_ATTEMPTS_MAX):
            self._converge()
            if self._freeze_once():
                break
        if self._outcome.freeze_ms:
            for member in self._each():
                seconds = self._outcome.freeze_ms / 1000
                counters.observe("freeze_seconds", seconds, volume=member.volume)

    def _freeze_once(self) -> bool:
        """One freeze within its limit; false when it failed and another attempt makes sense."""
        outcome = self._outcome
        limit = min(member.policy.freeze_seconds_max for member in self._each())
        try:
            for member in self._each():
                member.watched.direct.before()
            with self._freezer.frozen(self._cgroups, limit) as frozen:
                failpoint.hit("capture.frozen")
                outcome.time_ns = clock.now_ns()
                outcome.fuzzy = self._copy(Budget(frozen.remaining))
            if frozen.expired:
                outcome.fuzzy = f"the freeze ended after its limit of {limit * 1000:.0f} ms"
            outcome.freeze_ms = frozen.seconds * 1000
            self._thawed(frozen.seconds)
            return not frozen.expired
        except FreezeError as error:
            outcome.fuzzy = str(error)
            self._thawed(error.held_seconds)
            return not error.again

    def _thawed(self, held_seconds: float) -> None:
        """Record that the writers were frozen for so long, and run again."""
        for member in self._each():
            member.frozen_seconds += held_seconds
            member.watched.direct.thawed(held_seconds)
            member.thawed()

    @property
    def _freezer(self) -> Freezer:
        return self._members[0].tools.freezer

    def _copy(self, budget: Budget) -> str:
        """Inside the freeze: copy what changed. Returns why this is not one instant, or "".

        It is one only if a last scan of every member finds that nothing changed in any of them.
        """
        for attempt in range(_FROZEN_ROUNDS_MAX):
            moved = [member.copy(attempt, budget) for member in self._each()]
            if attempt and not any(moved):
                break
        else:
            return "written to during the freeze, by a process that was not frozen"
        return next(filter(None, (member.doubt() for member in self._each())), "")

    # Recording

    def _commit(self) -> dict[int, SnapshotRecord]:
        """Commit all changes in one transaction; a group's snapshots all name the whole instant."""
        changes = [m.change(self._reason, self._outcome, self._started) for m in self._each()]
        taken = {c.snapshot.volume_id: c.snapshot for c in changes if c.snapshot is not None}
        if taken and len(changes) > 1:
            heads = [c.snapshot or c.state.head for c in changes]
            group = {str(head.volume_id): head.seq for head in heads if head is not None}
            taken = {number: replace(record, group=group) for number, record in taken.items()}
            for change in changes:
                change.snapshot = taken.get(change.state.record.id)
        if taken:
            failpoint.hit("capture.before_commit")
        worth = [c for c in changes if c.snapshot is not None or not c.batch.records_only]
        if worth:
            commit_together(worth)
        for member in self._each():
            member.recorded(self._outcome, self._started)
        for member in self._members:
            if (snapshot := taken.get(member.volume_id)) is not None:
                _count(member.volume, snapshot)
        return taken


@contextlib.contextmanager
def _counted(members: Sequence[VolumeCapture]) -> Iterator[None]:
    """Count the CPU time of the block, in equal shares for all members."""
    reader = members[0].tools.reader
    cpu, threads_cpu = clock.thread_cpu(), reader.cpu_seconds
    try:
        yield
    finally:
        used = clock.thread_cpu() - cpu + reader.cpu_seconds - threads_cpu
        for member in members:
            member.cpu_seconds += used / len(members)
            share = used / len(members)
            counters.add("capture_cpu_seconds_total", share, volume=member.volume)


def _count(volume: str, snapshot: SnapshotRecord) -> None:
    counters.add(
        "snapshots_total", volume=volume, consistency=snapshot.consistency, reason=snapshot.reason
    )
    counters.observe("capture_seconds", snapshot.capture_ms / 1000, volume=volume)
    if snapshot.consistency == "fuzzy":
        counters.add("fuzzy_total", volume=volume)
