"""Which volumes are written by the same processes, and so are captured together.

Two volumes belong together when a process has both mounted. A volume that nobody writes to any more
stays with those that it was last captured with: what its last writers left in all of them is one
instant only if it is recorded as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffkeeper import limits

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


@dataclass(frozen=True, slots=True)
class GroupingFacts:
    """What matters of one watched volume for who is captured with whom.

    pids: its writing processes; recorded: volumes in the group of its newest snapshot, by id;
    apart: it is captured alone, whoever writes to it; still: everything in it is recorded, and the
    processes that have it mounted write nothing.
    """

    pids: frozenset[int] = frozenset()
    recorded: frozenset[int] = frozenset()
    apart: bool = False
    still: bool = False


def groups(facts: Mapping[int, GroupingFacts]) -> list[list[int]]:
    """The volume ids in groups, each in one; by id within a group, of any size."""
    leaders = {number: number for number in facts}

    def leader(number: int) -> int:
        while leaders[number] != number:
            leaders[number] = leaders[leaders[number]]
            number = leaders[number]
        return number

    def join(numbers: Collection[int]) -> None:
        first, *rest = map(leader, numbers)
        for other in rest:
            leaders[max(first, other)] = min(first, other)
            first = min(first, other)

    for numbers in _links(facts):
        join(numbers)
    found: dict[int, list[int]] = {}
    for number in sorted(facts):
        found.setdefault(leader(number), []).append(number)
    return list(found.values())


def _links(facts: Mapping[int, GroupingFacts]) -> list[list[int]]:
    """Sets of volumes that belong together; they may overlap."""
    by_pid: dict[int, list[int]] = {}
    pairs: list[list[int]] = []
    for number, own in facts.items():
        if own.apart:
            continue
        for pid in own.pids:
            by_pid.setdefault(pid, []).append(number)
        for other in own.recorded - {number}:
            peer = facts.get(other)
            if peer is not None and not peer.apart and _stay(own, peer):
                pairs.append([number, other])
    return [*by_pid.values(), *pairs]


def _stay(one: GroupingFacts, other: GroupingFacts) -> bool:
    """Whether two that were captured together last stay so, though no process has both.

    One that is still, and was only tied by observers, does not tie volumes that are written.
    """
    return not (one.pids and other.pids) and not (
        (one.still and other.pids) or (other.still and one.pids)
    )


def bounded(group: list[int]) -> list[list[int]]:
    """A group in parts of at most as many volumes as are captured together."""
    step = limits.GROUP_VOLUMES_MAX
    return [group[start : start + step] for start in range(0, len(group), step)]
