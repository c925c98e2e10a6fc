"""What the eBPF programs have marked, gathered for each volume between two drains."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diffkeeper import limits
from diffkeeper.capture.source import Changed

if TYPE_CHECKING:
    from collections.abc import Iterator

# Kinds of marks; as in bpf/marks.h.
DONE = 0
STARTED = 1
STORED = 2
REUSED = 3
LOOK = 4
MAPPED = 5
UNDER_WAY = 6


@dataclass(slots=True)
class Marks:
    """Marks of one volume; bounded, past the bound everything is lost."""

    done: dict[int, Changed] = field(default_factory=dict)
    started: dict[int, Changed] = field(default_factory=dict)
    under_way: dict[int, Changed] = field(default_factory=dict)
    reused: set[int] = field(default_factory=set)
    lost: bool = False
    count: int = 0

    def __bool__(self) -> bool:
        return bool(self.lost or self.done or self.started or self.under_way or self.reused)

    def lose(self) -> None:
        """A mark is missing: only a comparison of the whole volume tells what changed."""
        self.done.clear()
        self.started.clear()
        self.under_way.clear()
        self.reused.clear()
        self.lost = True

    def add_chunk(self, kind: int, inode: int, number: int) -> None:
        """A chunk, or of a STORED mark a window, was marked."""
        if not self._room():
            return
        changed = self._changed(kind, inode)
        (changed.windows if kind == STORED else changed.chunks).add(number)

    def add_file(self, kind: int, inode: int) -> None:
        """A file was marked as a whole."""
        if not self._room():
            return
        if kind == REUSED:
            self.reused.add(inode)
        elif kind == LOOK:
            # Told before the change, as what has STARTED; it names no part of the content.
            self._changed(STARTED, inode)
        elif kind == MAPPED:
            self._changed(kind, inode).mapped = True
        else:
            self._changed(kind, inode).whole = True

    def _changed(self, kind: int, inode: int) -> Changed:
        table = {STARTED: self.started, UNDER_WAY: self.under_way}.get(kind, self.done)
        found = table.get(inode)
        if found is None:
            found = table[inode] = Changed()
        return found

    def _room(self) -> bool:
        self.count += 1
        if self.count > limits.MARKS_PENDING_MAX and not self.lost:
            self.lose()
        return not self.lost


class Waiting:
    """Marks of operations that are told when they start, by the time of their drain; bounded."""

    def __init__(self) -> None:
        self._drained: deque[tuple[float, dict[int, Changed]]] = deque()

    def add(self, now: float, marks: dict[int, Changed]) -> None:
        """What a drain has brought; past the bound files are looked at as a whole."""
        if not marks:
            return
        self._drained.append((now, marks))
        waiting = [changed for _, drained in self._drained for changed in drained.values()]
        if sum(len(changed.chunks) for changed in waiting) > limits.MARKS_PENDING_MAX:
            for changed in waiting:
                changed.whole = True
                changed.chunks.clear()

    def due(self, ended: float) -> bool:
        """Whether something that was drained up to then waits."""
        return bool(self._drained) and self._drained[0][0] <= ended

    def look(self, since: float, ended: float) -> Iterator[tuple[int, Changed]]:
        """What was drained from `since` on or up to `ended`; the latter waits no more."""
        for drained, marks in self._drained:
            if drained >= since or drained <= ended:
                yield from marks.items()
        while self.due(ended):
            self._drained.popleft()

    def clear(self) -> None:
        """Nothing waits."""
        self._drained.clear()
