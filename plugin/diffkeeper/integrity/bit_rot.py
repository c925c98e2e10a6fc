"""Finds bit rot: files whose content differs although nobody wrote to them.

Every write moves a file's change time, which no program can set back. So a file whose stat
signature is the one that was recorded with its content has that content, or its disk has lost it. A
file whose signature moved was written; it is never called damaged.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from diffkeeper import limits
from diffkeeper.errors import ConflictError, CorruptionError, DiffKeeperError, NotFoundError
from diffkeeper.format import filetree
from diffkeeper.format.chunk import is_zero
from diffkeeper.format.entry import Entry, Kind, chunk_count
from diffkeeper.format.merkle import is_implied
from diffkeeper.fsio import inode, tree
from diffkeeper.hashing import chunk_digest
from diffkeeper.integrity.verify import Mismatch, entry_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from diffkeeper.format.ids import Root
    from diffkeeper.format.records import IndexRecord
    from diffkeeper.store.store import Store

    Get = Callable[[bytes], bytes]

REPAIR_RANGES_SHOWN_MAX = 20  # of one file


@dataclass(frozen=True, slots=True)
class Difference:
    """One chunk that differs. wanted: its recorded digest, or HOLE; found: the bytes on disk, None
    where the disk does not return them.
    """

    number: int
    length: int
    wanted: bytes
    found: bytes | None

    @property
    def blank(self) -> bool:
        """Whether the recorded content is zeros or a hole."""
        return is_implied(self.wanted, self.length)


@dataclass(slots=True)
class Damage:
    """One damaged file. ranges: [start, end) of some bytes, `ranges_left_out` more exist.

    names: paths from the volume's directory, all that were asked for of a file with several.
    """

    names: list[bytes]
    entry: Entry
    link_id: int
    inode: int
    bytes: int = 0  # of all chunks that differ
    unreadable_bytes: int = 0
    ranges: list[tuple[int, int]] = field(default_factory=list)
    ranges_left_out: int = 0

    def add(self, start: int, end: int) -> None:
        """Add a chunk; adjacent ones become one range."""
        self.bytes += end - start
        if self.ranges and not self.ranges_left_out and self.ranges[-1][1] == start:
            self.ranges[-1] = self.ranges[-1][0], end
        elif len(self.ranges) < REPAIR_RANGES_SHOWN_MAX:
            self.ranges.append((start, end))
        else:
            self.ranges_left_out += 1


class UnusedDirectory:
    """A live directory that nobody writes to, and `root` of the snapshot that it should equal.

    Paths are looked up below its descriptor: no symbolic link is followed, no mount crossed.
    """

    def __init__(self, store: Store, volume_id: int, directory: str, snapshot_root: Root) -> None:
        self._store = store
        self._volume_id = volume_id
        self.root = snapshot_root
        self._horizon_ns = max(limits.TIMESTAMP_GRANULE_NS, inode.mmap_dirty_horizon_ns())
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(directory, flags)

    def close(self) -> None:
        """Close the directory."""
        os.close(self._fd)

    @contextlib.contextmanager
    def located(self, path: bytes) -> Iterator[tuple[int, os.stat_result]]:
        """An O_PATH descriptor of the file at a path, and its lstat.

        Raises NotFoundError, and ConflictError for a path that leads through a link or a mount.
        """
        *parents, name = path.split(b"/")
        with contextlib.ExitStack() as stack:
            try:
                directory = stack.enter_context(tree.opened(self._fd, parents))
                pin, status = stack.enter_context(inode.pinned(directory, name))
            except FileNotFoundError as error:
                raise NotFoundError(f"{shown(path)} is missing on disk") from error
            except OSError as error:
                raise ConflictError(f"{shown(path)} {_why(error)}") from error
            yield pin, status

    def entry(self, path: bytes) -> tuple[Entry, int]:
        """The snapshot's entry of a regular file at a path, and its link id; NotFoundError,
        ConflictError.
        """
        named, shared = entry_at(self._store, self.root, path)
        entry = shared if named is not None and named.kind is Kind.LINK else named
        if named is None or entry is None:
            raise NotFoundError(f"{shown(path)} is not in the snapshot")
        if entry.kind is not Kind.FILE:
            kind = entry.kind.name.lower()
            raise ConflictError(f"{shown(path)} is a {kind}; only regular files are repaired")
        return entry, named.link_id

    def signed(self, path: bytes, entry: Entry, status: os.stat_result) -> IndexRecord:
        """The signature that proves that nobody wrote to the file since `entry` was recorded.

        ConflictError where there is none.
        """
        record = self._store.index(self._volume_id, status.st_ino)
        moved = "its size or its timestamps are not the recorded ones: it was written, not damaged"
        if not inode.is_regular(status):
            raise ConflictError(f"{shown(path)} is no regular file on disk")
        if record is None or record.kind != Kind.FILE:
            raise ConflictError(f"{shown(path)} is not the file that was recorded: it is a new one")
        seen = record.size, record.mtime_ns, record.ctime_ns
        if seen != (status.st_size, status.st_mtime_ns, status.st_ctime_ns):
            raise ConflictError(f"{shown(path)}: {moved}")
        if (record.content, record.size) != (entry.content, entry.size):
            raise ConflictError(f"{shown(path)}: its signature belongs to other content")
        if record.seen_ns - record.ctime_ns <= self._horizon_ns:
            raise ConflictError(
                f"{shown(path)} was recorded too soon after it was written for its timestamps to"
                " prove that it was not written again"
            )
        return record

    def examine(self, path: bytes) -> Damage | None:
        """How the file is damaged; None if it is whole. Changes nothing.

        Raises NotFoundError and ConflictError for files that cannot be judged, CorruptionError
        where the stored content that is needed is damaged, too.
        """
        entry, link_id = self.entry(path)
        with self.located(path) as (pin, status):
            self.signed(path, entry, status)
            damage = Damage([path], entry, link_id, status.st_ino)
            with inode.reading(pin) as fd:
                for each in differences(fd, entry, self._store.node):
                    self.content(path, each)
                    start = each.number << entry.chunk_bits
                    damage.add(start, start + each.length)
                    damage.unreadable_bytes += each.length if each.found is None else 0
        return damage if damage.bytes else None

    def content(self, path: bytes, each: Difference) -> bytes:
        """The recorded bytes of a chunk; CorruptionError names the file."""
        if each.blank:
            return bytes(each.length)
        try:
            plain = self._store.chunk(each.wanted)
        except (CorruptionError, NotFoundError) as error:
            raise CorruptionError(
                f"{shown(path)}: what the store has of it is damaged, too: {error}"
            ) from error
        if len(plain) != each.length:
            raise CorruptionError(f"{shown(path)}: a stored chunk has a wrong length")
        return plain


def differences(fd: int, entry: Entry, get: Get) -> Iterator[Difference]:
    """The chunks of an open file that differ from `entry`, in order.

    A hole in place of zeros, or the reverse, is no difference. One chunk at a time is in memory.
    """
    bits = entry.chunk_bits
    count = chunk_count(entry.size, bits)
    recorded = filetree.Lookup(entry.content, count, get)
    held = (number for number, _ in filetree.runs(entry.content, count, get))
    last = -1
    for number in heapq.merge(held, _with_data(fd, entry.size, bits)):
        if number == last:
            continue
        last = number
        start = number << bits
        length = min(1 << bits, entry.size - start)
        each = Difference(number, length, recorded.at(number), _read(fd, start, length))
        if each.found is None or not _same(each, each.found):
            yield each


def _same(each: Difference, found: bytes) -> bool:
    return is_zero(found) if each.blank else chunk_digest(found) == each.wanted


def _with_data(fd: int, size: int, bits: int) -> Iterator[int]:
    """Numbers of the chunks that are not holes."""
    following = 0
    for start, end in inode.data_extents(fd, size):
        first = max(following, start >> bits)
        following = max(following, -(-end >> bits))
        yield from range(first, following)


def _read(fd: int, start: int, length: int) -> bytes | None:
    """Bytes of a file, zeros past its end; None where the disk does not return them."""
    buffer = bytearray(length)
    try:
        inode.read_exactly(fd, memoryview(buffer), start)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None
    return bytes(buffer)


def judged(
    store: Store,
    volume_id: int,
    directory: str,
    snapshot_root: Root,
    found: Iterable[Mismatch],
) -> list[Mismatch]:
    """The mismatches; `damaged` stays set only where it is certain that nobody wrote to the
    file.
    """
    live = UnusedDirectory(store, volume_id, directory, snapshot_root)
    try:
        return [replace(m, damaged=m.damaged and _is_unwritten(live, m.path)) for m in found]
    finally:
        live.close()


def _is_unwritten(live: UnusedDirectory, path: bytes) -> bool:
    try:
        entry, _ = live.entry(path)
        with live.located(path) as (_, status):
            live.signed(path, entry, status)
    except DiffKeeperError:
        return False  # the verification reports the difference in any case; this only classifies it
    return True


def shown(path: bytes) -> str:
    """A path as messages show it."""
    return repr(os.fsdecode(path))


def _why(error: OSError) -> str:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "leads through a symbolic link or a file; no link is followed"
    if error.errno == errno.EXDEV:
        return "leads to what is mounted inside the volume"
    return f"cannot be opened: {error.strerror}"
