"""Reads the content of scanned files: all of it, or the parts that changed."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING

from diffkeeper.format.entry import Entry, Kind
from diffkeeper.snapshot.entries import kind_of
from diffkeeper.snapshot.observation import Trust, UnseenFiles
from diffkeeper.sources.base import Changed

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from diffkeeper.format.records import IndexRecord
    from diffkeeper.snapshot.chunker import Content
    from diffkeeper.snapshot.scan_context import Bounds, ScanContext
    from diffkeeper.snapshot.worktree import Directory
    from diffkeeper.sources.base import Ranges

LINKED_MAX = 10_000  # files with several names whose content one round remembers


class Why(Enum):
    """The reason for reading a file."""

    NAME = "its name was hinted"
    PLACE = "its inode was hinted, or it belongs to something that was"
    LISTING = "its directory is compared"


class FileReader:
    """Reads the files of one round of scanning. `changed`, `unseen`, `came`: the round's hints.

    deep: everything is compared, so the absence of a hint proves nothing.
    """

    def __init__(
        self,
        context: ScanContext,
        trust: Trust,
        bounds: Bounds,
        survey: Callable[[], frozenset[int]],
    ) -> None:
        """survey: the files that are mapped now, and whose stores may be unseen."""
        self._tree = context.tree
        self._source: Ranges = context.source
        self._reader = context.reader
        self._index = context.index
        self._chunk_bits = context.chunk_bits
        self.trust = trust
        self._bounds = bounds
        self._mapped = context.mapped
        self._already_read = context.already_read
        self._survey = survey
        self._window_bits = max(self._source.window_bits, self._chunk_bits)
        self._contents: dict[int, tuple[int, Content]] = {}
        self.changed: dict[int, Changed] = {}
        self.unseen = UnseenFiles()
        self.came: set[tuple[int, bytes]] = set()
        self.deep = False

    def see_mappings(self) -> None:
        """Survey mappings again: files are watched from now on that may have been mapped before."""
        self.unseen = replace(self.unseen, mapped=self.unseen.mapped | self._survey())

    def content(
        self,
        directory: Directory,
        name: bytes,
        fd: int,
        status: os.stat_result,
        why: Why,
        *,
        held: bool,
    ) -> Content:
        """The content of the regular file `fd`; `held`: the source has seen all its changes."""
        number = status.st_ino
        base = self._base(status, why) if held else None
        done = self._contents.get(number)
        # A write in progress has moved the timestamp before it moves the size.
        if done is not None and (done[0], done[1].size) == (status.st_ctime_ns, status.st_size):
            return done[1]
        before = self._already_read.setdefault(number, Changed())
        ways = self._tree.stage.get, self._bounds.spill, self._bounds.check
        if base is not None:
            before.chunks |= self._parts(number, fd, status.st_size, why)
            content = self._reader.read_parts(fd, status.st_size, base, before.chunks, *ways)
        else:
            before.whole = True
            self._mapped.read_whole(number, fd, mapped=self._is_mapped(status))
            old = self._recorded(directory, name, number)
            content = self._reader.read(fd, status.st_size, self._chunk_bits, old, *ways)
        if status.st_nlink > 1:
            if len(self._contents) >= LINKED_MAX:
                self._contents.clear()  # another name of it is read again
            self._contents[number] = (status.st_ctime_ns, content)
        return content

    def _base(self, status: os.stat_result, why: Why) -> Entry | None:
        """The content that the file had when it was last read, if all changes since were hinted."""
        number = status.st_ino
        changed = self.changed.get(number)
        if changed is not None and changed.whole:
            return None
        if number in self._already_read and self._already_read[number].whole:
            return None
        if number not in self._mapped.armed and self._is_mapped(status):
            return None
        if changed is None and (why is Why.LISTING or self.deep):
            return None
        record = self._index.get(number)
        if record is None or record.kind != Kind.FILE:
            return None
        return Entry(
            Kind.FILE, size=record.size, content=record.content, chunk_bits=self._chunk_bits
        )

    def _is_mapped(self, status: os.stat_result) -> bool:
        """Whether a process may have stored to pages that were dirty already.

        For a mapping that came and went: only if a timestamp moved since a scan before it.
        """
        changed = self.changed.get(status.st_ino)
        if status.st_ino in self.unseen.mapped or (changed is not None and changed.windows):
            return True
        since_ns = self._mapped.mapped_since(status.st_ino)
        if since_ns is None:
            return False
        record = self._index.get(status.st_ino)
        if record is None or record.seen_ns > since_ns:
            return True
        return not unmoved(record, status, self.trust.granule_ns)

    def _parts(self, number: int, fd: int, size: int, why: Why) -> set[int]:
        """Numbers of the chunks to read of a file whose changes are hinted."""
        changed = self.changed.get(number) or Changed()
        windows = set(changed.windows)
        armed = number in self._mapped.armed
        between = self._window_bits - self._chunk_bits
        if armed or (why is not Why.PLACE and not self._source.sees_mappings):
            # Who has a file mapped, or had it mapped until a close just now, may have stored beside
            # what was written, without a hint: a page that is dirty already gives none.
            windows.update(chunk >> between for chunk in changed.chunks)
        if armed and windows:
            self._mapped.read_windows(number, fd, windows)
        count = -(-size >> self._chunk_bits)
        parts = set(changed.chunks)
        for window in windows:
            first = window << between
            parts.update(range(first, min(first + (1 << between), count)))
        return parts

    def _recorded(self, directory: Directory, name: bytes, number: int) -> Entry | None:
        """The entry with the file's content as of the last capture."""
        record = self._index.get(number)
        if record is not None and record.kind == Kind.FILE and is_at(record, directory, name):
            # The signature belongs to what the tree has at this name, and is faster to find.
            return Entry(
                Kind.FILE, size=record.size, content=record.content, chunk_bits=self._chunk_bits
            )
        old = self._tree.file_entry(self._tree.lookup(directory, name))
        return old if old is not None and old.kind is Kind.FILE else None


def is_at(record: IndexRecord, directory: Directory, name: bytes) -> bool:
    """Whether a signature was recorded at this name."""
    return record.parent_ino == directory.inode and record.name == name


def unmoved(record: IndexRecord, status: os.stat_result, unsure_ns: int) -> bool:
    """Whether a signature is unchanged, and was old enough when recorded to prove it."""
    return (
        record.ctime_ns == status.st_ctime_ns
        and record.mtime_ns == status.st_mtime_ns
        and record.size == status.st_size
        and record.kind == kind_of(status)
        and record.seen_ns - record.ctime_ns > unsure_ns
    )
