"""A snapshot as a tar archive (pax), for people and for any tar program.

Names and targets that are no UTF-8 keep their bytes. Extended attributes, times to the nanosecond
and holes are stored in the forms that GNU tar reads. A tar cannot represent sockets.
"""

from __future__ import annotations

import os
import tarfile
from typing import IO, TYPE_CHECKING, cast

from diffkeeper import limits
from diffkeeper.errors import CorruptionError
from diffkeeper.format import dirtree, filetree, root, xattrs
from diffkeeper.format.entry import Entry, Kind, chunk_count, link_key
from diffkeeper.format.merkle import is_implied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from diffkeeper.format.ids import Root
    from diffkeeper.replay.replay import ObjectSource

_TYPES = {
    Kind.FILE: tarfile.REGTYPE,
    Kind.DIRECTORY: tarfile.DIRTYPE,
    Kind.SYMLINK: tarfile.SYMTYPE,
    Kind.FIFO: tarfile.FIFOTYPE,
    Kind.CHAR: tarfile.CHRTYPE,
    Kind.BLOCK: tarfile.BLKTYPE,
}
_BLOCK_BITS = 9  # of tar: the extents of a sparse file begin at multiples of this
_SPARSE_NAME = "./GNUSparseFile.0/"
_Extent = tuple[int, int]


class Tarball:
    """Writes one snapshot to `target`, which only needs `write`; memory is bounded by a few chunks.

    `progress` is called with the numbers of objects and of content bytes so far.
    """

    def __init__(
        self, objects: ObjectSource, target: IO[bytes], progress: Callable[[int, int], None]
    ) -> None:
        self._objects = objects
        self._progress = progress
        self._tar = tarfile.open(  # noqa: SIM115  # closed by `write`
            fileobj=target, mode="w|", format=tarfile.PAX_FORMAT, bufsize=tarfile.RECORDSIZE * 32,
            encoding="utf-8", errors="surrogateescape",
        )  # fmt: skip
        self._links_root = b""
        self._first_names: dict[int, str] = {}
        self.entries = 0
        self.bytes = 0
        self.sockets = 0  # left out

    def write(self, snapshot_root: Root) -> None:
        """Write the whole tree. Raises NotFoundError or CorruptionError for objects, OSError."""
        entry, self._links_root = root.decode_root(self._get(snapshot_root))
        with self._tar:
            self._add(entry, ".")
            # Each directory is followed by everything in it: so a tar program can set its time
            # afterwards.
            open_ones = [(".", dirtree.entries(entry.content, self._get))]
            while open_ones:
                path, left = open_ones[-1]
                name, below = next(left, (b"", entry))
                if not name:
                    open_ones.pop()
                    continue
                inner = f"{path}/{_name(name)}"
                self._add(below, inner)
                if below.kind is Kind.DIRECTORY:
                    open_ones.append((inner, dirtree.entries(below.content, self._get)))

    def _get(self, digest: bytes) -> bytes:
        return self._objects.nodes([digest])[0]

    def _add(self, entry: Entry, path: str) -> None:
        if entry.kind is Kind.LINK:
            found = dirtree.lookup(self._links_root, link_key(entry.link_id), self._get)
            if found is None or found.kind in (Kind.LINK, Kind.DIRECTORY):
                raise CorruptionError(f"{path!r} is a name of link {entry.link_id}: not recorded")
            first = self._first_names.setdefault(entry.link_id, path)
            if first != path and found.kind is not Kind.SOCKET:
                self._link(found, path, first)
                return
            entry = found
        if entry.kind is Kind.SOCKET:
            self.sockets += 1
            return
        item = self._item(entry, path)
        if entry.kind is not Kind.FILE:
            self._tar.addfile(item)
        elif entry.sparse and entry.chunk_bits >= _BLOCK_BITS:
            self._sparse(entry, item)
        else:
            item.size = entry.size
            self._file(item, self._content(entry))
        self._report_progress()

    def _link(self, entry: Entry, path: str, first: str) -> None:
        item = self._item(entry, path)
        item.type, item.linkname = tarfile.LNKTYPE, first
        self._tar.addfile(item)
        self._report_progress()

    def _report_progress(self) -> None:
        self.entries += 1
        self._progress(self.entries, self.bytes)

    def _item(self, entry: Entry, path: str) -> tarfile.TarInfo:
        """The header of one entry, without a size."""
        item = tarfile.TarInfo(path)
        item.type = _TYPES[entry.kind]
        item.mode, item.uid, item.gid = entry.mode, entry.uid, entry.gid
        item.mtime = max(0, entry.mtime_ns // 1_000_000_000)
        item.linkname = _text(entry.target)
        item.devmajor, item.devminor = os.major(entry.rdev), os.minor(entry.rdev)
        headers = {"mtime": _seconds(entry.mtime_ns)}
        if entry.xattrs:
            for name, value in xattrs.decode(self._get(entry.xattrs)).items():
                headers[_Keyword.of_attribute(name)] = _text(value)
        item.pax_headers = headers
        return item

    def _file(self, item: tarfile.TarInfo, content: Iterator[bytes]) -> None:
        self._tar.addfile(item, cast("IO[bytes]", _Pieces(content)))

    # Content

    def _sparse(self, entry: Entry, item: tarfile.TarInfo) -> None:
        """GNU's sparse format 1.0: a map of the extents in front of the extents themselves."""
        map_bytes = sum(map(len, _map(self._extents(entry), entry.size)))
        padding = -map_bytes % tarfile.BLOCKSIZE
        item.pax_headers = {
            **item.pax_headers,
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": item.name,
            "GNU.sparse.realsize": str(entry.size),
        }
        item.name = _SPARSE_NAME + item.name.rpartition("/")[2]
        data_bytes = sum(end - start for start, end in self._extents(entry))
        item.size = map_bytes + padding + data_bytes
        self._file(item, self._sparse_content(entry, padding))

    def _sparse_content(self, entry: Entry, padding: int) -> Iterator[bytes]:
        yield from _map(self._extents(entry), entry.size)
        yield bytes(padding)
        yield from (data for _, data in self._data(entry))

    def _numbers(self, entry: Entry) -> Iterator[tuple[int, bytes]]:
        """Chunks that are not holes: number and digest."""
        count = chunk_count(entry.size, entry.chunk_bits)
        return filetree.runs(entry.content, count, self._get)

    def _extents(self, entry: Entry) -> Iterator[_Extent]:
        """Byte ranges [start, end) that are not holes, as long as possible."""
        start = end = 0
        for number, _ in self._numbers(entry):
            at = number << entry.chunk_bits
            if at != end:
                if start < end:
                    yield start, end
                start = at
            end = min(at + (1 << entry.chunk_bits), entry.size)
        if start < end:
            yield start, end

    def _content(self, entry: Entry) -> Iterator[bytes]:
        """All bytes of a file, holes as zeros."""
        end = 0
        for at, data in self._data(entry):
            yield from _zeros(at - end)
            yield data
            end = at + len(data)
        yield from _zeros(entry.size - end)

    def _data(self, entry: Entry) -> Iterator[tuple[int, bytes]]:
        """(offset, content) of every chunk that is not a hole."""
        batch: list[tuple[int, bytes]] = []
        for item in self._numbers(entry):
            batch.append(item)
            if len(batch) << entry.chunk_bits >= limits.REPLAY_GROUP_BYTES:
                yield from self._batch(entry, batch)
                batch = []
        yield from self._batch(entry, batch)

    def _batch(self, entry: Entry, batch: list[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
        step = 1 << entry.chunk_bits
        lengths = [min(step, entry.size - number * step) for number, _ in batch]
        pairs = list(zip(batch, lengths, strict=True))
        wanted = [digest for (_, digest), length in pairs if not is_implied(digest, length)]
        plain = iter(self._objects.chunks(wanted) if wanted else ())
        for (number, digest), length in pairs:
            data = bytes(length) if is_implied(digest, length) else next(plain)
            if len(data) != length:
                raise CorruptionError(
                    f"chunk {digest.hex()} has {len(data)} bytes where {length} belong"
                )
            self.bytes += length
            self._progress(self.entries, self.bytes)
            yield number * step, data


class _Keyword(str):
    """The key of a pax record, which may be bytes that are no UTF-8, as its value may."""

    __slots__ = ()

    @classmethod
    def of_attribute(cls, name: bytes) -> _Keyword:
        """The key of an extended attribute; a character that would end it is escaped as GNU tar
        does.
        """
        return cls("SCHILY.xattr." + _text(name.replace(b"%", b"%25").replace(b"=", b"%3D")))

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """The very bytes that the name had."""
        return super().encode(encoding, "surrogateescape" if errors == "strict" else errors)


class _Pieces:
    """A file object for tarfile over the pieces of an iterator."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")

    def read(self, count: int) -> bytes:
        """At most `count` bytes, fewer at the end alone."""
        found = []
        while count:
            if not self._left:
                following = next(self._pieces, None)
                if following is None:
                    break
                self._left = memoryview(following)
            found.append(self._left[:count])
            count -= len(found[-1])
            self._left = self._left[len(found[-1]) :]
        return b"".join(found)


def _map(extents: Iterator[_Extent], size: int) -> Iterator[bytes]:
    """The map in text. Its first line is the number of extents, so they are listed first."""
    lines = [(start, end - start) for start, end in extents]
    if not lines or sum(lines[-1]) < size:
        lines.append((size, 0))
    yield b"%d\n" % len(lines)
    for start, length in lines:
        yield b"%d\n%d\n" % (start, length)


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield bytes(min(count, limits.CHUNK_BYTES_MAX))
        count -= limits.CHUNK_BYTES_MAX


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _name(name: bytes) -> str:
    """A name that stays inside its directory; CorruptionError for others."""
    if name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise CorruptionError(f"{name!r} is not a name of a file")
    return _text(name)


def _seconds(time_ns: int) -> str:
    """Seconds since the epoch with nine decimals, as pax writes them."""
    sign = "-" if time_ns < 0 else ""
    seconds, rest = divmod(abs(time_ns), 1_000_000_000)
    return f"{sign}{seconds}.{rest:09d}"
