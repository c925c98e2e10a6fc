"""The marks of the eBPF programs, collected for each volume between two drains."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diffkeeper.limits import STARTED_SECONDS
from diffkeeper.sources.base import Changed

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKS_PENDING_MAX = 500_000  # bounds memory; with more the whole volume is compared
STARTED_READS_SECONDS = (2.0, STARTED_SECONDS)  # seconds after its drain at which it is read again

# Kinds of marks; as in bpf/marks.h.
DONE = 0
STARTED = 1
STORED = 2
REUSED = 3
LOOK = 4
MAPPED = 5
UNDER_WAY = 6


@dataclass(slots=True)
class ChangeMarks:
    """Marks of one volume; bounded, beyond the bound all are lost."""

    done: dict[int, Changed] = field(default_factory=dict)
    started: dict[int, Changed] = field(default_factory=dict)
    under_way: dict[int, Changed] = field(default_factory=dict)
    reused: set[int] = field(default_factory=set)
    lost: bool = False
    count: int = 0

    def __bool__(self) -> bool:
        return bool(self.lost or self.done or self.started or self.under_way or self.reused)

    def lose(self) -> None:
        """A mark is missing: only a comparison of the whole volume finds what changed."""
        self.done.clear()
        self.started.clear()
        self.under_way.clear()
        self.reused.clear()
        self.lost = True

    def add_chunk(self, kind: int, inode: int, number: int) -> None:
        """A chunk was marked; for a STORED mark a window."""
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
            # Reported before the change, like STARTED; it names no part of the content.
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
        if self.count > MARKS_PENDING_MAX and not self.lost:
            self.lose()
        return not self.lost


class Waiting:
    """Marks of operations that are reported when they start, by the time of their drain;
    bounded.
    """

    def __init__(self) -> None:
        self._drained: deque[tuple[float, dict[int, Changed]]] = deque()

    def add(self, now: float, marks: dict[int, Changed]) -> None:
        """Add the marks of a drain; beyond the bound files are read as a whole."""
        if not marks:
            return
        self._drained.append((now, marks))
        _bound([changed for _, drained in self._drained for changed in drained.values()])

    def due(self, ended: float) -> bool:
        """Whether something waits that was drained up to then."""
        first = next(iter(self._drained.copy()), None)  # another thread may remove it meanwhile
        return first is not None and first[0] <= ended

    def drained_between(self, since: float, ended: float) -> Iterator[tuple[int, Changed]]:
        """What was drained from `since` on or up to `ended`; the latter is removed."""
        for drained, marks in self._drained:
            if drained >= since or drained <= ended:
                yield from marks.items()
        while self.due(ended):
            self._drained.popleft()

    def clear(self) -> None:
        """Drop everything."""
        self._drained.clear()


@dataclass(slots=True)
class _Moving:
    drained: float
    marks: dict[int, Changed]
    reads: int = 0  # how many of the reads by time are done
    reported: bool = False
    frozen: bool = False  # whether it was read in a freeze since

    @property
    def due(self) -> float:
        return self.drained + STARTED_READS_SECONDS[self.reads]


class Moving:
    """Operations that move or remove content, which are reported when they start; bounded.

    A process that is frozen has ended them, so that the first read in a freeze sees the result. One
    that is not, such as a process of the host, may continue: everything is read again when it has
    certainly ended, and once before, since most operations take no time.
    """

    def __init__(self) -> None:
        self._entries: deque[_Moving] = deque()

    def add(self, now: float, marks: dict[int, Changed]) -> None:
        """Add the marks of a drain; beyond the bound files are read as a whole."""
        if not marks:
            return
        self._entries.append(_Moving(now, marks))
        waiting = [changed for entry in self._entries for changed in entry.marks.values()]
        _bound(waiting)

    def due(self, now: float) -> bool:
        """Whether something is due to be read again."""
        return any(now >= entry.due for entry in self._entries.copy())

    def to_read(self, now: float, *, frozen: bool) -> Iterator[tuple[int, Changed]]:
        """What to read now: what is new, what no freeze has seen yet, what is due."""
        for entry in self._entries:
            due = now >= entry.due and not frozen  # in a freeze time is short
            if due or not entry.reported or (frozen and not entry.frozen):
                yield from entry.marks.items()
            entry.reported, entry.frozen = True, entry.frozen or frozen
            while due and entry.reads < len(STARTED_READS_SECONDS) and now >= entry.due:
                entry.reads += 1
        left = len(STARTED_READS_SECONDS)
        self._entries = deque(entry for entry in self._entries if entry.reads < left)

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()


def _bound(waiting: list[Changed]) -> None:
    if sum(len(changed.chunks) for changed in waiting) > MARKS_PENDING_MAX:
        for changed in waiting:
            changed.whole = True
            changed.chunks.clear()
