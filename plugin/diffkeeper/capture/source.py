"""The interface between a capture and whatever hints at changes (inotify, scan, later eBPF).

A directory is known by its inode number, which no rename changes. A hint may be finer or coarser:
a byte range of a file, a name in a directory, a whole directory, or the whole volume. A source
that is unsure reports the coarser level; nothing may make a hint finer than what was seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from diffkeeper import limits


@dataclass(slots=True)
class Dirty:
    """What may have changed since the last drain.

    everything: the volume is to be compared as a whole (the reason is in `cause`).
    directories: inode numbers of directories whose own attributes (mode, owner, …) may differ.
    names: directory inode number to names in it that were written, created, removed or renamed.
    ranges: (inode number) to chunk numbers, where a source sees byte ranges; such a file is also
        reached by its number alone.
    orphans: writes came through a descriptor whose name is gone, so that another name of the same
        inode may have changed unseen.
    """

    everything: bool = False
    cause: str = ""
    directories: set[int] = field(default_factory=set)
    names: dict[int, set[bytes]] = field(default_factory=dict)
    ranges: dict[int, set[int]] = field(default_factory=dict)
    orphans: bool = False

    def __bool__(self) -> bool:
        return bool(
            self.everything or self.directories or self.names or self.ranges or self.orphans
        )

    def escalate(self, cause: str) -> None:
        """Widen to the whole volume; the finer hints are covered by it."""
        self.everything = True
        self.cause = self.cause or cause
        self.names.clear()
        self.directories.clear()
        self.ranges.clear()

    def add_name(self, directory: int, name: bytes) -> None:
        """Mark one name; past the bound on names the whole volume is marked instead."""
        if self.everything:
            return
        names = self.names.setdefault(directory, set())
        names.add(name)
        if len(names) > limits.DIRTY_NAMES_MAX or len(self.names) > limits.DIRTY_NAMES_MAX:
            self.escalate("too many changed names to list")


class Source(Protocol):
    """A source of hints for one volume. Methods may be called from any thread."""

    @property
    def name(self) -> str:
        """`inotify`, `scan`, …: as shown to a person."""

    @property
    def complete(self) -> bool:
        """Whether a name that changes is always hinted, so that unhinted names need no look."""

    def start(self) -> None:
        """Begin to gather; everything before this is unknown to the source."""

    def stop(self) -> None:
        """Give back every kernel resource."""

    def watch(self, inode: int, descriptor: int) -> bool:
        """Gather hints about a directory; called before its names are listed.

        True when hints about it were not gathered before, so that its names are to be looked at.
        """

    def unwatch(self, inode: int) -> None:
        """Stop gathering about a directory that left the volume."""

    def pending(self) -> bool:
        """Whether a drain would return anything; cheap."""

    def drain(self) -> Dirty:
        """Take all hints about changes that were complete when the call began."""

    def give_back(self, inode: int, names: set[bytes]) -> None:
        """Make the next drain return these names of a directory again."""

    def escalate(self, cause: str) -> None:
        """Make the next drain return the whole volume."""
