"""The result of looking at one name, and what has to be scanned besides the hints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diffkeeper import limits
from diffkeeper.errors import DiffKeeperError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

    from diffkeeper.format.records import IndexRecord
    from diffkeeper.snapshot.chunker import Content
    from diffkeeper.snapshot.held_back import Trouble
    from diffkeeper.snapshot.worktree import Directory


class LostError(DiffKeeperError):
    """The live directory itself is gone; its content must not be recorded as deleted."""


@dataclass(slots=True)
class Observation:
    """What one name was seen to be; `status` is None for a name that does not exist."""

    directory: Directory
    name: bytes
    status: os.stat_result | None = None
    seen_ns: int = 0
    attributes: dict[bytes, bytes] = field(default_factory=dict)
    target: bytes = b""
    content: Content | None = None
    trouble: Trouble | None = None  # what could not be read or recorded

    @property
    def stale(self) -> bool:
        """Whether it could not be read, so that its recorded state stays."""
        return self.trouble is not None and self.trouble.stale

    def agrees(self, other: Observation, get: Callable[[bytes], bytes]) -> bool:
        """Whether two observations of one name agree. `get` reads nodes by digest."""
        if self.status is None or other.status is None:
            return self.status is other.status
        if _comparable(self.status) != _comparable(other.status):
            return False
        one, two = self.content, other.content
        if one is None or two is None:
            return one is two
        if (one.root, one.count) == (two.root, two.count):
            return one.changes == two.changes
        # Of a file with several names, each may have been compared with the record of another one.
        return one.digest(get) == two.digest(get)

    def is_as(self, record: IndexRecord) -> bool:
        """Whether the file is unchanged since the record, at the same name."""
        status = self.status
        return (
            status is not None
            and not (self.content is not None and self.content.changes)
            and (record.size, record.content)
            == (status.st_size, self.content.root if self.content is not None else record.content)
            and (record.mtime_ns, record.ctime_ns) == (status.st_mtime_ns, status.st_ctime_ns)
            and (record.parent_ino, record.name) == (self.directory.inode, self.name)
        )


def _comparable(status: os.stat_result) -> tuple[int, ...]:
    times = status.st_mtime_ns, status.st_ctime_ns
    return status.st_ino, status.st_nlink, status.st_size, *times


def windows(seen: Iterable[Observation]) -> Iterator[list[Observation]]:
    """Observations in lists of bounded length and bytes of content."""
    window: list[Observation] = []
    size = 0
    for each in seen:
        window.append(each)
        size += each.content.data_bytes if each.content else 0
        if size > limits.OBSERVE_BYTES_MAX or len(window) > limits.OBSERVE_NAMES_MAX:
            yield window
            window, size = [], 0
    yield window


@dataclass(frozen=True, slots=True)
class SeenName:
    """Where a file was seen: inode number of the directory, and name. `alone`: it has no other
    name.
    """

    directory: int
    name: bytes
    alone: bool


@dataclass(frozen=True, slots=True)
class UnseenFiles:
    """Inode numbers of files that may change without a hint.

    mapped: shared and writable in some process, so that stores leave no trace at all; opened: open
    for writing where writes give no hint, but move the timestamps.
    """

    mapped: frozenset[int] = frozenset()
    opened: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.mapped or self.opened)


@dataclass(slots=True)
class Trust:
    """When a stat signature proves that content is unchanged.

    granule_ns: a change this soon before the stat may share its timestamp with a later one.
    horizon_ns: a page that was mapped and dirty this long before the stat may have been stored to
    again without moving a timestamp. 0 where the source sees the end of every mapping.
    """

    granule_ns: int
    horizon_ns: int
