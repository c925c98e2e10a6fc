"""The interface between a capture and a source of hints about changes (eBPF, inotify, scan).

A directory is identified by its inode number, which no rename changes. A hint may be finer or
coarser: a byte range of a file, a name in a directory, a whole directory, or the whole volume. A
source that is unsure reports the coarser level; nothing may make a hint finer than what was seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from diffkeeper import limits

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(slots=True)
class Changed:
    """Parts of one file that may have changed: all of it, chunks, and windows of a mapping.

    mapped: a process has, or had, it mapped, so that stores beside what was written may be unseen.
    """

    whole: bool = False
    mapped: bool = False
    chunks: set[int] = field(default_factory=set)
    windows: set[int] = field(default_factory=set)

    def merge(self, other: Changed) -> None:
        """Add another hint about the same file."""
        self.whole = self.whole or other.whole
        self.mapped = self.mapped or other.mapped
        self.chunks |= other.chunks
        self.windows |= other.windows


@dataclass(slots=True)
class Dirty:
    """What may have changed since the last drain.

    everything: the volume has to be compared as a whole (the reason is in `cause`).
    unwatched: no file is watched any more; each has to be watched before it is compared.
    directories: inode numbers of directories whose own attributes (mode, owner, …) may differ.
    names: directory inode number to names in it that were written, created, removed or renamed.
    files: inode number to what changed in the file, where a source sees that.
    orphans: writes came through a descriptor whose name is gone, so another name of the same inode
    may have changed unseen.
    closed: such a descriptor was closed; until then it may have had a mapping, whose stores left no
    trace; `unnamed`: inode numbers of files for which this is known.
    compare: inode numbers of directories that cannot be watched; every name in them has to be
    compared in each capture.
    came: names (directory inode number and name) that something was given.
    passed: something had such a name, and has it no more: if that is a file with other names, it
    may have changed unseen.
    """

    everything: bool = False
    cause: str = ""
    unwatched: bool = False
    directories: set[int] = field(default_factory=set)
    names: dict[int, set[bytes]] = field(default_factory=dict)
    files: dict[int, Changed] = field(default_factory=dict)
    orphans: bool = False
    closed: bool = False
    unnamed: set[int] = field(default_factory=set)
    compare: tuple[int, ...] = ()
    came: set[tuple[int, bytes]] = field(default_factory=set)
    passed: bool = False

    def __bool__(self) -> bool:
        return bool(self.hinted or self.orphans or self.compare)

    @property
    def hinted(self) -> bool:
        """Whether a change was seen, or everything has to be compared.

        `orphans` may be set always where some directories are not watched, and is no evidence then.
        """
        seen = self.everything or self.directories or self.names or self.files
        return bool(seen or (self.orphans and not self.compare))

    def escalate(self, cause: str) -> None:
        """Widen to the whole volume; that covers names, while hints about files stay of use."""
        self.everything = True
        self.cause = self.cause or cause
        self.names.clear()
        self.directories.clear()
        self.compare = ()
        self.came.clear()

    def add_name(self, directory: int, name: bytes) -> None:
        """Add one name; beyond the bound on names, widen to the whole volume."""
        if self.everything:
            return
        names = self.names.setdefault(directory, set())
        names.add(name)
        if len(names) > limits.DIRTY_NAMES_MAX or len(self.names) > limits.DIRTY_NAMES_MAX:
            self.escalate("too many changed names to list")

    def close(self, number: int = 0) -> None:
        """A descriptor without a name was closed; `number`: inode number, if known."""
        if number and len(self.unnamed) < limits.DIRTY_NAMES_MAX:
            self.unnamed.add(number)
        else:
            self.closed = True

    def pass_on(self, directory: int, name: bytes, *, came: bool) -> None:
        """A hinted name was given to something (`came`), or taken away."""
        self.passed = self.passed or (directory, name) in self.came
        if came and not self.everything:
            self.came.add((directory, name))


class Names(Protocol):
    """Hints about names, and the state of their source. Methods may be called from any thread."""

    @property
    def name(self) -> str:
        """`inotify`, `scan`, …: as shown in status and log."""

    @property
    def complete(self) -> bool:
        """Whether every changed name is hinted, so that other names need not be scanned."""

    @property
    def hinting(self) -> bool:
        """Whether it gives hints at all; otherwise every drain is the whole volume."""

    @property
    def unwatched(self) -> int:
        """Number of directories that cannot be watched; each drain has them compared."""

    @property
    def why_unwatched(self) -> str:
        """Why there are such, and what to do about it; empty if there are none."""

    def start(self) -> None:
        """Begin to collect hints; the source knows nothing of what happened before."""

    def stop(self) -> None:
        """Release every kernel resource."""

    def watch(self, inode: int, descriptor: int) -> bool:
        """Watch a directory; called before its names are listed.

        True when it was not watched before, so that its names have to be scanned. One that cannot
        be watched is in `Dirty.compare` from the next drain on.
        """

    def unwatch(self, inode: int) -> None:
        """Stop watching a directory that left the volume."""

    def pending(self) -> bool:
        """Whether a drain would return anything; cheap."""

    def drain(self, *, frozen: bool = False) -> Dirty:
        """Take all hints about changes that were complete when the call began.

        `frozen`: no writer is inside a system call that changes the volume.
        """

    def under_way(self) -> bool:
        """Whether a write is in flight that continues although its process is frozen."""

    def give_back(self, inode: int, names: set[bytes]) -> None:
        """Have the next drain return these names of a directory again."""

    def escalate(self, cause: str) -> None:
        """Have the next drain return the whole volume."""

    def broken(self) -> str:
        """Why it may have missed changes since it was started; empty if it has not."""

    def missed(self) -> bool:
        """Whether hints were lost since the last drain; the next one returns the whole volume."""


class Ranges(Protocol):
    """Hints about parts of files, of a source that watches files."""

    @property
    def by_range(self) -> bool:
        """Whether every change of a watched file is in `Dirty.files`."""

    @property
    def sees_mappings(self) -> bool:
        """Whether every file that was mapped since the last drain is marked as mapped."""

    @property
    def window_bits(self) -> int:
        """log2 of the bytes of a window in `Changed`."""

    def watch_new(self, inodes: Iterable[int]) -> bool:
        """Watch these files from now on; whether one of them was not watched before.

        Called before anything is read of them.
        """

    def all_seen(self, inode: int) -> bool:
        """Whether all changes were seen since the file's content was last read, see `mark_read`.

        A file that was not watched is watched from now on. Called before the file is read.
        """

    def mark_read(self, inodes: Iterable[int]) -> None:
        """The content of these watched files was read, or proved to be what was read before."""

    def release(self, inodes: Iterable[int]) -> None:
        """The recorded content of these files is not theirs: they have to be read as a whole."""

    def give_back_file(self, inode: int, changed: Changed) -> None:
        """Have the next drain return this hint about a file again."""


class Source(Names, Ranges, Protocol):
    """A source of hints for one volume; one that watches no files takes `Ranges` of `NamesOnly`."""


class NamesOnly:
    """The file-related part of a source that only sees names."""

    hinting = True
    by_range = False
    sees_mappings = False
    window_bits = 0

    def broken(self) -> str:
        """Never: such a source knows by itself what it misses."""
        return ""

    def missed(self) -> bool:
        """Never: what is lost shows in the next drain."""
        return False

    def under_way(self) -> bool:
        """Unknown."""
        return False

    def watch_new(self, inodes: Iterable[int]) -> bool:
        """Files are not watched."""
        return False

    def all_seen(self, inode: int) -> bool:
        """Never."""
        return False

    def mark_read(self, inodes: Iterable[int]) -> None:
        """Files are not watched."""

    def release(self, inodes: Iterable[int]) -> None:
        """Files are not watched."""

    def give_back_file(self, inode: int, changed: Changed) -> None:
        """There were no hints about files."""
