"""Which snapshots of a volume's history may go: a plan from facts alone. Pure.

A history is thinned by tiers. The first one covers the youngest snapshots and usually keeps all;
each further one begins where the one before it ends and keeps one snapshot in each of its slots.
Slots are multiples of the tier's step since the epoch. They nest, since each step is a multiple of
the one before, and a slot changes its tier as a whole, when its end is old enough. So what a slot
keeps once stays its choice, and thinning in any rhythm never misses what it took away before.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import compress, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence


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


class Moments:
    """All stored snapshots of one volume by rising number, at 17 bytes each."""

    def __init__(self, moments: Iterable[Moment] = ()) -> None:
        self.seqs, self.times_ns, self.crash = array("Q"), array("q"), bytearray()
        for moment in moments:
            self.append(moment)

    def __len__(self) -> int:
        return len(self.seqs)

    def append(self, moment: Moment) -> None:
        """One that was stored after all others."""
        self.seqs.append(moment.seq)
        self.times_ns.append(moment.time_ns)
        self.crash.append(moment.crash)

    def drop(self, gone: Collection[int]) -> None:
        """Forget those with these numbers."""
        stay = bytes(seq not in gone for seq in self.seqs)
        self.seqs = array("Q", compress(self.seqs, stay))
        self.times_ns = array("q", compress(self.times_ns, stay))
        self.crash = bytearray(compress(self.crash, stay))


def plan(moments: Moments, tiers: Tiers, now_ns: int, keep: Collection[int] = ()) -> list[int]:
    """Sequence numbers to forget, of all stored snapshots of one volume.

    Never the newest, the newest `crash` one, or one of `keep`. A slot keeps its newest `crash`
    snapshot, and a fuzzy one only where it has no other: the newest is the state that lasted on.
    A snapshot is too old for the last tier when it was followed by another one that long ago.
    """
    if not tiers or not moments:
        return []
    seqs, newest_crash = moments.seqs, moments.crash.rfind(1)
    kept = {seqs[-1], seqs[newest_crash], *keep}  # without one the newest again
    crowded = _crowded(moments, _aged_steps(tiers, now_ns))
    oldest = now_ns - tiers[-1].until_ns
    return [
        seq
        for index, seq in enumerate(seqs)
        if (crowded[index] or _followed_ns(moments.times_ns, index) <= oldest) and seq not in kept
    ]


def _crowded(moments: Moments, steps: list[tuple[int, int]]) -> bytearray:
    """Which of them share a slot with a better one: 1 at their places.

    By time, a slot comes as a whole.
    """

    def rank(index: int) -> tuple[int, int, int]:
        return moments.crash[index], moments.times_ns[index], moments.seqs[index]

    found = bytearray(len(moments))
    at, best = None, 0
    for index in _by_time(moments.times_ns):
        slot = _slot(moments.times_ns[index], steps)
        if slot is None or slot != at:
            at, best = slot, index
            continue
        worse, best = sorted((best, index), key=rank)
        found[worse] = 1
    return found


def _by_time(times_ns: Sequence[int]) -> Sequence[int]:
    """Their places in the order of time, which is another one only where the clock went back."""
    places = range(len(times_ns))
    if all(before <= after for before, after in pairwise(times_ns)):
        return places
    return sorted(places, key=times_ns.__getitem__)


def _aged_steps(tiers: Tiers, now_ns: int) -> list[tuple[int, int]]:
    """(step, the latest end of a slot that is old enough for it), the longest step first."""
    begins = [0, *(tier.until_ns for tier in tiers[:-1])]
    pairs = zip(tiers, begins, strict=True)
    return [(tier.step_ns, now_ns - begin) for tier, begin in pairs if tier.step_ns][::-1]


def _slot(time_ns: int, steps: list[tuple[int, int]]) -> tuple[int, int] | None:
    """The (step, number) of the slot that a moment shares with others; None for one alone."""
    for step_ns, latest_ns in steps:
        number = time_ns // step_ns
        if (number + 1) * step_ns <= latest_ns:
            return step_ns, number
    return None


def _followed_ns(times_ns: Sequence[int], index: int) -> int:
    """When the state ended that a snapshot shows; its own time where the clock went back."""
    return max(times_ns[index : index + 2])


def rhythm_ns(tiers: Tiers, longest_ns: int) -> int:
    """How often a plan can have a new outcome: the shortest step, but `longest_ns` at most."""
    return min([longest_ns, *(tier.step_ns for tier in tiers if tier.step_ns)])
