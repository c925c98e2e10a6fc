"""What the eBPF programs have marked, gathered for each volume between two drains."""

from __future__ import annotations

from dataclasses import dataclass, field

from diffkeeper import limits
from diffkeeper.capture.source import Changed

# Kinds of marks; as in bpf/marks.h.
DONE = 0
STARTED = 1
STORED = 2
REUSED = 3
LOOK = 4
MAPPED = 5


@dataclass(slots=True)
class Marks:
    """Marks of one volume; bounded, past the bound everything is lost."""

    done: dict[int, Changed] = field(default_factory=dict)
    started: dict[int, Changed] = field(default_factory=dict)
    reused: set[int] = field(default_factory=set)
    lost: bool = False
    count: int = 0

    def __bool__(self) -> bool:
        return bool(self.lost or self.done or self.started or self.reused)

    def lose(self) -> None:
        """A mark is missing: only a comparison of the whole volume tells what changed."""
        self.done.clear()
        self.started.clear()
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
        table = self.started if kind == STARTED else self.done
        found = table.get(inode)
        if found is None:
            found = table[inode] = Changed()
        return found

    def _room(self) -> bool:
        self.count += 1
        if self.count > limits.MARKS_PENDING_MAX and not self.lost:
            self.lose()
        return not self.lost
