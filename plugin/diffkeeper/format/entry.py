"""One directory entry: everything about a file except its name.

Equal entries have equal bytes, and no other bytes decode to them, so that a directory's digest
depends on its content alone.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING

from msgspec import Struct

from diffkeeper.errors import CorruptionError, InvalidInputError
from diffkeeper.format import times
from diffkeeper.hashing import DIGEST_BYTES
from diffkeeper.limits import CHUNK_BYTES_MAX, LINK_TARGET_BYTES_MAX

if TYPE_CHECKING:
    from diffkeeper.hashing import BytesLike

EMPTY = bytes(DIGEST_BYTES)  # root of an empty tree, and of nothing at all
CHUNK_BITS_MAX = CHUNK_BYTES_MAX.bit_length() - 1
SIZE_MAX = (1 << 63) - 1

FLAG_SPARSE = 1
FLAG_CONTENT = 2
FLAG_XATTRS = 4
FLAG_RDEV = 8
FLAG_LINK = 16
FLAG_TARGET = 32
FLAG_TIME = 64
_FLAGS_ALL = 127

FIXED = struct.Struct("<BBBHIIqQ")
RDEV = struct.Struct("<Q")
LINK = struct.Struct("<QI")
TARGET = struct.Struct("<H")
TIME = struct.Struct("<I")


class Kind(IntEnum):
    """Type of an entry. LINK is another name of a file in the links tree."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    SOCKET = 5
    CHAR = 6
    BLOCK = 7
    LINK = 8


_KINDS = {int(kind): kind for kind in Kind}


class Entry(Struct, frozen=True, gc=False):
    """Metadata of one file and the root of its content.

    A structure, not a dataclass, since millions are made: it takes a sixth of the time to make.

    A LINK entry carries `link_id` and nothing else: the file's own entry is in the snapshot's
    links tree, under the id as eight bytes, big-endian.
    """

    kind: Kind
    mode: int = 0  # permission, set-id and sticky bits, 0 to 07777
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0  # since the epoch, may be negative; its seconds are signed 64 bits
    size: int = 0  # bytes; of a directory: of all files below it
    content: bytes = EMPTY  # root of the file tree or of the directory tree
    target: bytes = b""  # of a symbolic link
    rdev: int = 0  # of a device
    xattrs: bytes = b""  # digest of an xattr node, or nothing
    chunk_bits: int = 0  # log2 of the chunk size in bytes
    sparse: bool = False
    link_id: int = 0
    links: int = 0  # of a directory: names of regular files below it


def chunk_count(size: int, chunk_bits: int) -> int:
    """Number of chunks of a file of `size` bytes."""
    return (size + (1 << chunk_bits) - 1) >> chunk_bits


def link_key(link_id: int) -> bytes:
    """Name of a file in the links tree: its id as eight bytes, big-endian."""
    return link_id.to_bytes(8, "big")


def encode_entry(e: Entry) -> bytes:
    """The entry's bytes; InvalidInputError when a field is out of its range."""
    problem = _problem(e)
    if problem:
        raise InvalidInputError(f"entry: {problem}")
    flags = FLAG_SPARSE if e.sparse else 0
    tail = []
    if e.content != EMPTY:
        flags |= FLAG_CONTENT
        tail.append(e.content)
    if e.xattrs:
        flags |= FLAG_XATTRS
        tail.append(e.xattrs)
    try:
        if e.rdev:
            flags |= FLAG_RDEV
            tail.append(RDEV.pack(e.rdev))
        if e.link_id or e.links:
            flags |= FLAG_LINK
            tail.append(LINK.pack(e.link_id, e.links))
        if e.target:
            flags |= FLAG_TARGET
            tail.append(TARGET.pack(len(e.target)) + e.target)
        time = e.mtime_ns
        if time not in times.NARROW:
            time, nanoseconds = times.split(time)
            flags |= FLAG_TIME
            tail.append(TIME.pack(nanoseconds))
        fixed = FIXED.pack(e.kind, flags, e.chunk_bits, e.mode, e.uid, e.gid, time, e.size)
    except struct.error as error:
        raise InvalidInputError(f"entry: {error}") from None
    return b"".join((fixed, *tail))


def _problem(e: Entry) -> str:
    """What is invalid in the entry, or ""."""
    if e.mode > 0o7777:
        return f"mode {e.mode:o} has bits above 07777"
    if e.size > SIZE_MAX:
        return f"size {e.size} exceeds {SIZE_MAX}"
    if e.chunk_bits > CHUNK_BITS_MAX:
        return f"chunk_bits {e.chunk_bits} exceeds {CHUNK_BITS_MAX}"
    if len(e.content) != DIGEST_BYTES or len(e.xattrs) not in (0, DIGEST_BYTES):
        return "a digest has not 32 bytes"
    if len(e.target) > LINK_TARGET_BYTES_MAX:
        return f"a link target of {len(e.target)} bytes exceeds {LINK_TARGET_BYTES_MAX}"
    if e.kind == Kind.LINK and e != Entry(Kind.LINK, link_id=e.link_id):
        return "a LINK entry carries more than link_id"
    return ""


def decode_entry(view: BytesLike) -> Entry:
    """The entry whose encoding is exactly `view`; CorruptionError for any other bytes."""
    try:
        kind, flags, chunk_bits, mode, uid, gid, mtime_ns, size = FIXED.unpack_from(view)
        if kind not in _KINDS or flags > _FLAGS_ALL:
            raise CorruptionError(f"entry: kind {kind} with flags {flags:#x} is not known")
        position = FIXED.size
        content, xattrs, target, rdev, link_id, links = EMPTY, b"", b"", 0, 0, 0
        if flags & FLAG_CONTENT:
            content = bytes(view[position : position + DIGEST_BYTES])
            position += DIGEST_BYTES
        if flags & FLAG_XATTRS:
            xattrs = bytes(view[position : position + DIGEST_BYTES])
            position += DIGEST_BYTES
        if flags & FLAG_RDEV:
            (rdev,) = RDEV.unpack_from(view, position)
            position += RDEV.size
        if flags & FLAG_LINK:
            link_id, links = LINK.unpack_from(view, position)
            position += LINK.size
        if flags & FLAG_TARGET:
            (length,) = TARGET.unpack_from(view, position)
            target = bytes(view[position + TARGET.size : position + TARGET.size + length])
            position += TARGET.size + length
        if flags & FLAG_TIME:
            mtime_ns = times.joined(mtime_ns, *TIME.unpack_from(view, position))
            position += TIME.size
    except struct.error:
        raise CorruptionError(f"entry of {len(view)} bytes is cut off") from None
    entry = Entry(
        _KINDS[kind], mode, uid, gid, mtime_ns, size, content, target, rdev, xattrs, chunk_bits,
        bool(flags & FLAG_SPARSE), link_id, links,
    )  # fmt: skip
    problem = _problem(entry) or _waste(entry, flags)
    if problem or position != len(view):
        raise CorruptionError(f"entry: {problem or 'its length is not what its flags say'}")
    return entry


def _waste(e: Entry, flags: int) -> str:
    """A field that is encoded although it has its default, which would be a second encoding."""
    empty = (
        (flags & FLAG_CONTENT and e.content == EMPTY)
        or (flags & FLAG_XATTRS and not e.xattrs)
        or (flags & FLAG_RDEV and not e.rdev)
        or (flags & FLAG_LINK and not (e.link_id or e.links))
        or (flags & FLAG_TARGET and not e.target)
        or (flags & FLAG_TIME and e.mtime_ns in times.NARROW)
    )
    return "an optional part is present and empty" if empty else ""
