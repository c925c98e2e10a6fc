"""Which snapshots of a volume retention may forget: computed from the history alone. Pure.

A history is thinned by tiers. The first tier covers the youngest snapshots and usually keeps all of
them; each further tier begins where the one before it ends, and keeps one snapshot per slot. Slots
are multiples of the tier's step since the epoch. They nest, since each step is a multiple of the
one before, and a slot moves to the next tier as a whole, when its end is old enough. So the
snapshot that a slot has kept stays its choice, and the result does not depend on how often thinning
runs.
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
    """One snapshot in every `step_ns`, up to an age of `until_ns`; a step of 0 keeps all."""

    until_ns: int
    step_ns: int


Tiers = tuple[Tier, ...]  # by rising age and step; empty keeps everything


@dataclass(frozen=True, slots=True)
class Moment:
    """What the plan needs to know of one stored snapshot."""

    seq: int
    time_ns: int
    crash: bool  # crash-consistent; else fuzzy


class Moments:
    """All stored snapshots of one volume, by ascending sequence number; 17 bytes each."""

    def __init__(self, moments: Iterable[Moment] = ()) -> None:
        self.seqs, self.times_ns, self.crash = array("Q"), array("q"), bytearray()
        for moment in moments:
            self.append(moment)

    def __len__(self) -> int:
        return len(self.seqs)

    def append(self, moment: Moment) -> None:
        """Add a snapshot that was stored after all others."""
        self.seqs.append(moment.seq)
        self.times_ns.append(moment.time_ns)
        self.crash.append(moment.crash)

    def drop(self, gone: Collection[int]) -> None:
        """Remove the snapshots with these sequence numbers."""
        stay = bytes(seq not in gone for seq in self.seqs)
        self.seqs = array("Q", compress(self.seqs, stay))
        self.times_ns = array("q", compress(self.times_ns, stay))
        self.crash = bytearray(compress(self.crash, stay))


def plan(moments: Moments, tiers: Tiers, now_ns: int, keep: Collection[int] = ()) -> list[int]:
    """Sequence numbers of the snapshots to forget.

    Never the newest, the newest `crash` one, or one of `keep`. A slot keeps its newest `crash`
    snapshot, and a fuzzy one only if it has no other: the newest is the state that lasted. A
    snapshot is too old for the last tier when its successor is.
    """
    if not tiers or not moments:
        return []
    seqs, newest_crash = moments.seqs, moments.crash.rfind(1)
    kept = {seqs[-1], seqs[newest_crash], *keep}  # without a `crash` one: the newest again
    crowded = _crowded(moments, _aged_steps(tiers, now_ns))
    oldest = now_ns - tiers[-1].until_ns
    return [
        seq
        for index, seq in enumerate(seqs)
        if (crowded[index] or _followed_ns(moments.times_ns, index) <= oldest) and seq not in kept
    ]


def _crowded(moments: Moments, steps: list[tuple[int, int]]) -> bytearray:
    """For each snapshot whether a better one is in its slot: 1 at its position.

    Snapshots are visited in order of time, in which those of a slot are adjacent.
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
    """Positions in order of time; that differs from the given order only where the clock went
    back.
    """
    order = range(len(times_ns))
    if all(before <= after for before, after in pairwise(times_ns)):
        return order
    return sorted(order, key=times_ns.__getitem__)


def _aged_steps(tiers: Tiers, now_ns: int) -> list[tuple[int, int]]:
    """(step, end of the latest slot that is old enough for it) of each tier, longest step first."""
    begins = [0, *(tier.until_ns for tier in tiers[:-1])]
    pairs = zip(tiers, begins, strict=True)
    return [(tier.step_ns, now_ns - begin) for tier, begin in pairs if tier.step_ns][::-1]


def _slot(time_ns: int, steps: list[tuple[int, int]]) -> tuple[int, int] | None:
    """(step, number) of the slot that a moment is in; None where every snapshot is kept."""
    for step_ns, latest_ns in steps:
        number = time_ns // step_ns
        if (number + 1) * step_ns <= latest_ns:
            return step_ns, number
    return None


def _followed_ns(times_ns: Sequence[int], index: int) -> int:
    """When the state of a snapshot ended: the time of its successor. Its own time if that is
    earlier.
    """
    return max(times_ns[index : index + 2])


def rhythm_ns(tiers: Tiers, longest_ns: int) -> int:
    """The shortest interval at which a plan can change: the shortest step, at most `longest_ns`."""
    return min([longest_ns, *(tier.step_ns for tier in tiers if tier.step_ns)])
