"""Some bits for each object of a store, for a collection; about 30 bytes for a pack."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Mark(IntEnum):
    """Marks of an object."""

    LIVE = 0  # it stays
    REACHED = 1  # it is more than a base
    ENTERED = 2  # a node whose references are marked, or queued to be


class ObjectMarks:
    """Marks of all objects. Not thread safe. `objects` returns the number of objects in a pack; it
    is called once for each pack that has a mark.
    """

    def __init__(self) -> None:
        self._numbers = array("Q")
        self._starts = array("q")  # first bit of the pack at this position; -1: none is set
        self._others: dict[int, int] = {}  # likewise, of packs that came later
        self._bits = tuple(bytearray() for _ in Mark)

    def add_packs(self, numbers: list[int]) -> None:
        """Add packs in ascending order. Others can be marked, too, and take more memory."""
        self._starts.extend([-1] * len(numbers))
        self._numbers.extend(numbers)

    def put(self, mark: Mark, number: int, slot: int, objects: Callable[[], int]) -> bool:
        """Set a bit; false when it was set before."""
        start = self._start(number)
        if start < 0:
            start = self._reserve(number, objects())
        at, bit = start + slot >> 3, 1 << (start + slot & 7)
        bits = self._bits[mark]
        if bits[at] & bit:
            return False
        bits[at] |= bit
        return True

    def has(self, mark: Mark, number: int, slot: int) -> bool:
        """Whether a bit is set."""
        start = self._start(number)
        return start >= 0 and bool(self._bits[mark][start + slot >> 3] >> (start + slot & 7) & 1)

    def slots(self, mark: Mark, number: int, objects: int) -> list[int]:
        """Slots of a pack of so many objects whose bit is set, in order."""
        start, bits = self._start(number), self._bits[mark]
        if start < 0:
            return []
        return [
            slot for slot in range(objects) if bits[start + slot >> 3] >> (start + slot & 7) & 1
        ]

    def _start(self, number: int) -> int:
        other = self._others.get(number)
        if other is not None:
            return other
        at = bisect_left(self._numbers, number)
        known = at < len(self._numbers) and self._numbers[at] == number
        return self._starts[at] if known else -1

    def _reserve(self, number: int, objects: int) -> int:
        start = len(self._bits[0]) << 3
        for bits in self._bits:
            bits.extend(bytes((objects + 7) >> 3))
        at = bisect_left(self._numbers, number)
        if at < len(self._numbers) and self._numbers[at] == number:
            self._starts[at] = start
        else:
            self._others[number] = start
        return start
