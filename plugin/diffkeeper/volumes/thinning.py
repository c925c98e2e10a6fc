"""Which snapshots of a volume's history may go: a plan from facts alone. Pure.

A history is thinned by tiers. The first one covers the youngest snapshots and usually keeps all;
each further one begins where the one before it ends and keeps one snapshot in each of its slots.
Slots are multiples of the tier's step since the epoch. They nest, since each step is a multiple of
the one before, and a slot changes its tier as a whole, when its end is old enough. So what a slot
keeps once stays its choice, and thinning in any rhythm never misses what it took away before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


@dataclass(frozen=True, slots=True)
class Tier:
    """Up to an age of `until_ns`, one snapshot in every `step_ns`; all of them where that is 0."""

    until_ns: int
    step_ns: int


Tiers = tuple[Tier, ...]  # by rising age and step; empty keeps everything


@dataclass(frozen=True, slots=True)
class Moment:
    """What the plan has to know of one stored snapshot."""

    seq: int
    time_ns: int
    crash: bool  # crash-consistent; else fuzzy


def plan(
    moments: Sequence[Moment], tiers: Tiers, now_ns: int, keep: Collection[int] = ()
) -> list[int]:
    """Sequence numbers to forget, of all stored snapshots of one volume by rising number.

    Never the newest, the newest `crash` one, or one of `keep`. A slot keeps its newest `crash`
    snapshot, and a fuzzy one only where it has no other: the newest is the state that lasted on.
    A snapshot is too old for the last tier when it was followed by another one that long ago.
    """
    if not tiers or not moments:
        return []
    kept = {moments[-1].seq, *keep}
    kept |= {next((m.seq for m in reversed(moments) if m.crash), moments[-1].seq)}
    steps = _aged_steps(tiers, now_ns)
    slots = [_slot(moment, steps) for moment in moments]
    best: dict[tuple[int, int], Moment] = {}
    for moment, slot in zip(moments, slots, strict=True):
        if slot is not None and (slot not in best or _rank(moment) > _rank(best[slot])):
            best[slot] = moment
    oldest = now_ns - tiers[-1].until_ns
    found = []
    for index, (moment, slot) in enumerate(zip(moments, slots, strict=True)):
        crowded = slot is not None and best[slot] is not moment
        if moment.seq not in kept and (crowded or _followed_ns(moments, index) <= oldest):
            found.append(moment.seq)
    return found


def _aged_steps(tiers: Tiers, now_ns: int) -> list[tuple[int, int]]:
    """(step, the latest end of a slot that is old enough for it), the longest step first."""
    begins = [0, *(tier.until_ns for tier in tiers[:-1])]
    pairs = zip(tiers, begins, strict=True)
    return [(tier.step_ns, now_ns - begin) for tier, begin in pairs if tier.step_ns][::-1]


def _slot(moment: Moment, steps: list[tuple[int, int]]) -> tuple[int, int] | None:
    """The (step, number) of the slot that the moment shares with others; None for one alone."""
    for step_ns, latest_ns in steps:
        number = moment.time_ns // step_ns
        if (number + 1) * step_ns <= latest_ns:
            return step_ns, number
    return None


def _rank(moment: Moment) -> tuple[bool, int, int]:
    return moment.crash, moment.time_ns, moment.seq


def _followed_ns(moments: Sequence[Moment], index: int) -> int:
    """When the state ended that the snapshot shows; its own time where the clock went back."""
    moment = moments[index]
    following = moments[index + 1].time_ns if index + 1 < len(moments) else moment.time_ns
    return max(moment.time_ns, following)


def rhythm_ns(tiers: Tiers, longest_ns: int) -> int:
    """How often a plan can have a new outcome: the shortest step, but `longest_ns` at most."""
    return min([longest_ns, *(tier.step_ns for tier in tiers if tier.step_ns)])
