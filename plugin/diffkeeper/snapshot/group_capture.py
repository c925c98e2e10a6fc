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
from diffkeeper.errors import DiffKeeperError, FreezeError, UnsupportedError
from diffkeeper.freeze.cgroups import topmost
from diffkeeper.snapshot.outcome import Budget, Outcome
from diffkeeper.snapshot.volume_capture import VolumeCapture
from diffkeeper.snapshot.volume_state import commit_together

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diffkeeper.format.records import SnapshotRecord
    from diffkeeper.freeze.freezer import Freezer
    from diffkeeper.freeze.writers import Writers
    from diffkeeper.snapshot.capture_state import Drained
    from diffkeeper.snapshot.watched_volume import WatchedVolume

PRECOPY_ROUNDS_MAX = 3


class RegroupError(DiffKeeperError):
    """A process wrote for the first time while a capture was under way, so that volumes belong
    together of which it may have had only some. Nothing was recorded: survey again, and repeat.
    """


_FROZEN_ROUNDS_MAX = 3
_PRECOPY_ENOUGH_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class GroupVolume:
    """A member of the group, and the processes that have it mounted."""

    watched: WatchedVolume
    writers: Writers


def capture(
    members: Sequence[GroupVolume], reason: str, *, freeze: bool = True
) -> list[SnapshotRecord | None]:
    """Record what changed in the members as new snapshots of one instant; in the members' order.

    None for a member whose newest snapshot is still right. Raises RegroupError, NoSpaceError,
    LostError, OSError, …: nothing was recorded of any member then, and everything is captured again
    later.
    """
    by_id = sorted(members, key=lambda member: member.watched.volume_id)
    with contextlib.ExitStack() as locks:
        for member in by_id:
            locks.enter_context(member.watched.lock)
        alive = [member for member in by_id if not member.watched.closed]
        taken = _relying(alive, reason, freeze) if alive else {}
    return [taken.get(member.watched.volume_id) for member in members]


def _relying(
    members: Sequence[GroupVolume], reason: str, freeze: bool
) -> dict[int, SnapshotRecord]:
    """Capture; repeat if a source failed or lost hints meanwhile, with its replacement.

    A source that loses hints in every attempt is given up.
    """
    watched = [member.watched for member in members]
    while True:
        sources = [volume.source for volume in watched]
        capture = _GroupCapture(members, reason, freeze)
        try:
            return capture.run()
        except (UnsupportedError, OSError):
            for volume in watched:
                volume.replace_broken()
            replaced = [volume.source for volume in watched] != sources
            if not replaced and not capture.missed:
                raise
            for volume in watched:
                volume.forget()


class _GroupCapture:
    """One capture of a group whose members are locked."""

    def __init__(self, members: Sequence[GroupVolume], reason: str, freeze: bool) -> None:
        self._members = members
        self._volumes = [member.watched for member in members]
        self._reason = reason
        self._started = clock.monotonic()
        self._outcome = Outcome()
        self._captures: list[VolumeCapture] = []  # of the members, once all have drained
        self._at: WatchedVolume | None = None
        self.missed = False  # it failed, and a member's source lost hints meanwhile
        wanted = {
            cgroup
            for member in members
            if freeze and member.watched.policy.freeze
            for cgroup in member.writers.cgroups
        }
        self._cgroups = topmost(wanted)
        self._freeze = freeze

    def run(self) -> dict[int, SnapshotRecord]:
        """The new snapshots by volume id."""
        try:
            with _counted(self._volumes), self._volumes[0].context.store.holding():
                return self._run()
        except BaseException:
            if self._at is not None:
                self._at.faulty = True
            self.missed = any(volume.source.missed() for volume in self._volumes)
            self._captures.clear()
            for volume in self._volumes:
                volume.forget()
            raise

    def _turns(self) -> Iterator[GroupVolume]:
        """The members in turn; an exception in the loop body is attributed to the current one."""
        for member in self._members:
            self._at = member.watched
            yield member
        self._at = None

    def _each(self) -> Iterator[VolumeCapture]:
        """The captures of the members in turn, as `_turns`."""
        for capture in self._captures:
            self._at = capture.watched
            yield capture
        self._at = None

    def _run(self) -> dict[int, SnapshotRecord]:
        # No short cut: every member has to drain its hints.
        drained = [self._drain(member) for member in self._turns()]
        if not any(drained):
            return {}
        failpoint.hit("capture.drained")
        for member, hints in zip(self._turns(), drained, strict=True):
            capture = self._begin(member, hints)
            self._captures.append(capture)
            capture.precopy()
        if all([capture.same() for capture in self._each()]):
            for capture in self._each():
                capture.end()
            return {}
        failpoint.hit("capture.precopied")
        if self._cgroups:
            self._frozen()
        else:
            self._until_quiet()
        failpoint.hit("capture.thawed")
        for capture in self._each():
            capture.end_scans(self._started)
        self._name_unfreezable()
        self._refuse_regrouped()
        return self._commit()

    def _drain(self, member: GroupVolume) -> Drained:
        urgent = self._reason != "interval"
        return member.watched.drain(self._started, member.writers, urgent=urgent)

    def _begin(self, member: GroupVolume, drained: Drained) -> VolumeCapture:
        still, share = not self._cgroups, len(self._members)
        return VolumeCapture(member.watched, drained, member.writers, still=still, share=share)

    def _refuse_regrouped(self) -> None:
        """Raises RegroupError if who only observed has written, maybe first to a volume that is not
        captured here, and then to one that is.
        """
        surveys = [member.writers.at for member in self._members if member.writers.observed]
        if surveys and self._volumes[0].context.survey.observers_wrote(min(surveys)):
            raise RegroupError("a process that only had several volumes mounted has written")

    def _name_unfreezable(self) -> None:
        found = {
            text: None
            for capture in self._captures
            if capture.watched.policy.freeze
            for text in capture.writers.unfreezable
        }
        if found and self._freeze and self._outcome.fuzzy:
            self._outcome.fuzzy += f"; not freezable: {', '.join(found)}"

    # Looking

    def _until_quiet(self) -> None:
        """Scan without a freeze, until one round sees nothing change in any member."""
        for _ in range(PRECOPY_ROUNDS_MAX):
            self._outcome.time_ns = clock.now_ns()
            if all([capture.scan_again() for capture in self._each()]):
                return
        if any([capture.moved() for capture in self._each()]):
            self._outcome.fuzzy = "written to while it was read, by a process that was not frozen"

    def _converge(self) -> None:
        """More pre-copy rounds while they take long, so that little is left for the freeze."""
        for _ in range(PRECOPY_ROUNDS_MAX):
            started = clock.monotonic()
            for capture in self._each():
                capture.precopy_more()
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
            for volume in self._volumes:
                seconds = self._outcome.freeze_ms / 1000
                counters.observe("freeze_seconds", seconds, volume=volume.volume)

    def _freeze_once(self) -> bool:
        """One freeze within its limit; false when it failed and another attempt makes sense."""
        outcome = self._outcome
        limit = min(volume.policy.freeze_seconds_max for volume in self._volumes)
        try:
            for capture in self._each():
                capture.watched.watcher.direct.before()
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
        for capture in self._each():
            capture.thawed(held_seconds)

    @property
    def _freezer(self) -> Freezer:
        return self._volumes[0].context.freezer

    def _copy(self, budget: Budget) -> str:
        """Inside the freeze: copy what changed. Returns why this is not one instant, or "".

        It is one only if a last scan of every member finds that nothing changed in any of them.
        """
        for attempt in range(_FROZEN_ROUNDS_MAX):
            moved = [capture.copy(attempt, budget) for capture in self._each()]
            if attempt and not any(moved):
                break
        else:
            return "written to during the freeze, by a process that was not frozen"
        return next(filter(None, (capture.doubt() for capture in self._each())), "")

    # Recording

    def _commit(self) -> dict[int, SnapshotRecord]:
        """Commit all changes in one transaction; a group's snapshots all name the whole instant."""
        changes = [c.change(self._reason, self._outcome, self._started) for c in self._each()]
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
        for capture in self._each():
            capture.recorded(self._outcome, self._started)
        for volume in self._volumes:
            if (snapshot := taken.get(volume.volume_id)) is not None:
                _count(volume.volume, snapshot)
        return taken


@contextlib.contextmanager
def _counted(volumes: Sequence[WatchedVolume]) -> Iterator[None]:
    """Count the CPU time of the block, in equal shares for all volumes."""
    reader = volumes[0].context.reader
    cpu, threads_cpu = clock.thread_cpu(), reader.cpu_seconds
    try:
        yield
    finally:
        used = clock.thread_cpu() - cpu + reader.cpu_seconds - threads_cpu
        share = used / len(volumes)
        for volume in volumes:
            volume.cpu_seconds += share
            counters.add("capture_cpu_seconds_total", share, volume=volume.volume)


def _count(volume: str, snapshot: SnapshotRecord) -> None:
    counters.add(
        "snapshots_total", volume=volume, consistency=snapshot.consistency, reason=snapshot.reason
    )
    counters.observe("capture_seconds", snapshot.capture_ms / 1000, volume=volume)
    if snapshot.consistency == "fuzzy":
        counters.add("fuzzy_total", volume=volume)
