"""Takes the snapshots of volumes; a group is captured together.

Methods block and run on worker threads.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffkeeper import clock, limits
from diffkeeper.errors import DiffKeeperError
from diffkeeper.freeze.writers import Survey, Target, Writers
from diffkeeper.service import consistency_groups
from diffkeeper.snapshot import group_capture
from diffkeeper.volumes.throttle import Cost
from diffkeeper.volumes.volume_status import ShownGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from diffkeeper.format.records import SnapshotRecord
    from diffkeeper.service.idle_share import IdleShare
    from diffkeeper.snapshot.watched_volume import WatchedVolume
    from diffkeeper.volumes.volume import Volume

_AT_INTERVALS = ("interval", "mount")  # reasons of captures that nobody asked for


@dataclass(frozen=True, slots=True)
class ConsistencyGroup:
    """Volumes that are captured together; `note`: why it is only a part of those written
    together.
    """

    volumes: tuple[Volume, ...]
    note: str = ""

    @property
    def shortest(self) -> float:
        """The shortest of their intervals, which applies to all."""
        return min(volume.throttle.interval for volume in self.volumes)

    def watched(self) -> list[tuple[Volume, WatchedVolume]]:
        """The volumes that are still watched."""
        return [(v, s) for v in self.volumes if (s := v.watched) is not None]

    def apply_throttle(self, share: float) -> None:
        """Set the same interval for all, and show the group in their status; `share`: see
        `IdleShare`.
        """
        names = tuple(volume.name for volume in self.volumes) if len(self.volumes) > 1 else ()
        needed = max(volume.throttle.needed(share) for volume in self.volumes)
        for volume in self.volumes:
            volume.throttle.adapt(self.shortest, needed)
            volume.status.grouped(ShownGroup(names, self.note))


@dataclass(frozen=True, slots=True)
class _ConsistencyGroups:
    """All groups for one survey and one `state`; and the group of each volume."""

    found: Mapping[Target, Writers]
    state: object
    groups: tuple[ConsistencyGroup, ...]
    of: Mapping[Volume, ConsistencyGroup]


class Captures:
    """The captures of one daemon. `volumes` returns all volumes."""

    def __init__(
        self, survey: Survey, volumes: Callable[[], Sequence[Volume]], spare: IdleShare
    ) -> None:
        self._survey = survey
        self._spare = spare
        self._volumes = volumes
        self._state = object()  # replaced when a capture changed what groups depend on
        self._groups: _ConsistencyGroups | None = None

    def together(self, volume: Volume, found: Mapping[Target, Writers]) -> ConsistencyGroup:
        """The volumes that are captured with this one, including itself."""
        return self._of(found).of.get(volume) or ConsistencyGroup((volume,))

    def groups(self, found: Mapping[Target, Writers]) -> Sequence[ConsistencyGroup]:
        """All watched volumes in groups."""
        return self._of(found).groups

    def _of(self, found: Mapping[Target, Writers]) -> _ConsistencyGroups:
        """The groups, computed once for each survey, since that visits all volumes."""
        last, state = self._groups, self._state
        if last is None or last.found is not found or last.state is not state:
            groups = tuple(self._made(found))
            of = {volume: group for group in groups for volume in group.volumes}
            last = self._groups = _ConsistencyGroups(found, state, groups, of)
        return last

    def _made(self, found: Mapping[Target, Writers]) -> list[ConsistencyGroup]:
        watched = {
            v.state.record.id: (v, s) for v in self._volumes() if (s := v.watched) is not None
        }
        facts = {n: _grouping_facts(v, s, found) for n, (v, s) in watched.items()}
        return [
            ConsistencyGroup(
                tuple(watched[n][0] for n in part), _reason(part, whole, watched[part[0]][1])
            )
            for whole in consistency_groups.groups(facts)
            for part in consistency_groups.bounded(whole)
        ]

    def apply_throttle(self, group: ConsistencyGroup) -> None:
        """Set the intervals of a group, as the idle share allows now."""
        group.apply_throttle(self._spare.share())

    def writers(
        self, written: Target | None = None, *, quiet: bool = False
    ) -> dict[Target, Writers]:
        """Who has each watched volume mounted, from a survey that all captures share.

        `written`: a volume that is known to have been written to. `quiet`: none is.
        """
        return self._survey.recent(self.targets(), written, quiet=quiet)

    def one_survey(self) -> AbstractContextManager[None]:
        """Within the block this thread asks each process only once, for any number of volumes."""
        return self._survey.one_survey()

    def targets(self) -> list[Target]:
        """All watched volumes, as the survey identifies them."""
        return [s.target for v in self._volumes() if (s := v.watched) is not None]

    def capture(self, volume: Volume, reason: str, *, freeze: bool = True) -> SnapshotRecord | None:
        """Take a snapshot of what changed in the volume, and in those that are captured with it.

        None when nothing changed in this one. Updates intervals and troubles of all. Without
        `freeze` the writers of a single volume run on; a group of volumes is always frozen.
        """
        while (watched := volume.watched) is not None:
            # Each attempt in vain makes a writer of one that observed, of which there are few.
            with contextlib.suppress(group_capture.RegroupError):
                return self._capture(volume, watched, reason, freeze=freeze)
        return None

    def _capture(
        self, volume: Volume, watched: WatchedVolume, reason: str, *, freeze: bool
    ) -> SnapshotRecord | None:
        """As `capture`, for the group as of now. Raises RegroupError where another one is due."""
        cpu = clock.thread_cpu()
        if reason in _AT_INTERVALS:
            found = self.writers(watched.target)
        else:
            found = self._survey.find(self.targets())
        surveyed = clock.thread_cpu() - cpu
        group = self.together(volume, found)
        parts = group.watched()
        members = [group_capture.GroupVolume(s, found.get(s.target, Writers())) for _, s in parts]
        meter = _Meter([s for _, s in parts], surveyed)
        before = [_grouping(v, s) for v, s in parts]
        try:
            taken = group_capture.capture(members, reason, freeze=freeze or len(members) > 1)
        except group_capture.RegroupError:
            raise
        except Exception as error:
            for member, _ in parts:
                member.capture_failed(error, group.shortest, meter.cost())
            raise
        finally:
            if before != [_grouping(v, s) for v, s in parts]:
                self._state = object()
        used = meter.cost()
        for (member, _), snapshot in zip(parts, taken, strict=True):
            member.throttle.used(used)
            member.captured(snapshot)
        self.apply_throttle(group)
        return next((t for (v, _), t in zip(parts, taken, strict=True) if v is volume), None)


class _Meter:
    """Measures what a capture of these volumes costs together, from its creation on."""

    def __init__(self, watched: Sequence[WatchedVolume], cpu_seconds: float) -> None:
        """`cpu_seconds`: cost before that."""
        self._watched = watched
        self._cpu_seconds = cpu_seconds
        self._started = clock.monotonic()
        self._before = self._sums()

    def cost(self) -> Cost:
        """The cost until now."""
        (cpu, frozen), (cpu_before, frozen_before) = self._sums(), self._before
        elapsed = clock.monotonic() - self._started
        cpu += self._cpu_seconds
        return Cost(cpu - cpu_before, frozen - frozen_before, elapsed)

    def _sums(self) -> tuple[float, float]:
        """Seconds of CPU, which the members share, and seconds frozen, which are the same for
        all.
        """
        cpu = sum(s.cpu_seconds for s in self._watched)
        return cpu, max((s.frozen_seconds for s in self._watched), default=0.0)


def _grouping_facts(
    volume: Volume, watched: WatchedVolume, found: Mapping[Target, Writers]
) -> consistency_groups.GroupingFacts:
    recorded, apart = _grouping(volume, watched)
    writers = found.get(watched.target, Writers())
    still = writers.observed and not writers.pids and _is_quiet(watched)
    return consistency_groups.GroupingFacts(frozenset(writers.pids), recorded, apart, still)


def _is_quiet(watched: WatchedVolume) -> bool:
    """Whether there are no hints; false if unknown, which the capture then reports."""
    try:
        return watched.quiet()
    except (DiffKeeperError, OSError):
        return False


def _grouping(volume: Volume, watched: WatchedVolume) -> tuple[frozenset[int], bool]:
    """The facts of a volume for grouping, except its writers: see `GroupingFacts`."""
    head = volume.state.head
    recorded = frozenset(map(int, head.group)) if head is not None else frozenset()
    return recorded, not watched.policy.freeze or watched.faulty


def _reason(part: Sequence[int], whole: Sequence[int], first: WatchedVolume) -> str:
    """Why these are not all that are written together; `first`: the capture of the first."""
    if len(part) < len(whole):
        return (
            f"{len(whole)} volumes are written together; they are captured in parts of at most"
            f" {limits.GROUP_VOLUMES_MAX}, each of one instant"
        )
    return "captured alone until its captures succeed again" if first.faulty else ""
