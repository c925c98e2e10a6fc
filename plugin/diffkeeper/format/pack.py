"""Packs: many chunks and nodes in one value, compressed together in frames.

A pack is a header, the digests of its objects, a compressed table and the frames. An object is the
next part of the plain content of its frame; a delta is the XOR of an object with another one, its
base, over the length of the base, so that a frame of deltas is mostly zeros. A frame is
decompressed without any base: damage to an object only affects objects that have it as their base.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from diffkeeper.errors import CorruptionError, InvalidInputError
from diffkeeper.format import chunk
from diffkeeper.format.ids import ObjectId, ObjectKind
from diffkeeper.hashing import DIGEST_BYTES
from diffkeeper.limits import (
    CHUNK_BYTES_MAX,
    FRAME_BYTES,
    FRAME_BYTES_MAX,
    PACK_FRAMES_MAX,
    PACK_OBJECTS_MAX,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diffkeeper.hashing import BytesLike

DELTA_SAME_FRACTION_MIN = 0.8  # of a chunk's bytes, for a delta to pay
DELTA_SAME_FRACTION_NODE_MIN = 0.2

PACK_VERSION = 1
HEADER = struct.Struct("<BIHI")  # version, objects, frames, bytes of the compressed table
FRAME = struct.Struct("<BHI")  # kind as of a stored object, objects, bytes
FLAG_NODE = 1  # in the node domain; else a chunk
FLAG_DELTA = 2
OUTSIDE = 0xFFFF  # in place of the slot of a base that is in another pack
_TABLE_BYTES_MAX = PACK_OBJECTS_MAX * (1 + 4 + 2 + DIGEST_BYTES) + PACK_FRAMES_MAX * FRAME.size


@dataclass(frozen=True, slots=True)
class FrameMember:
    """One object of a frame. `base`: digest of what a delta was made against, else empty."""

    id: ObjectId
    length: int  # plain bytes
    base: bytes = b""


@dataclass(slots=True)
class Frame:
    """Objects whose plain contents (or deltas) follow each other in one compressed `payload`."""

    kind: int
    payload: BytesLike
    members: list[FrameMember]

    @property
    def stored_bytes(self) -> int:
        """Bytes that it adds to a pack, without its few bytes in the table."""
        return len(self.payload) + DIGEST_BYTES * len(self.members)


def frame_of(wanted: ObjectId, stored: BytesLike) -> Frame:
    """A frame of one object that is encoded already, see `chunk.encode`; CorruptionError."""
    length, kind = chunk.plain_length(stored), stored[0]
    if kind not in (chunk.KIND_RAW, chunk.KIND_ZSTD) or length > CHUNK_BYTES_MAX:
        raise CorruptionError(f"{wanted} of kind {kind} and {length} bytes fits in no pack")
    return Frame(kind, memoryview(stored)[chunk.HEADER_BYTES :], [FrameMember(wanted, length)])


@dataclass(slots=True)
class _Open:
    parts: list[BytesLike] = field(default_factory=list)
    members: list[FrameMember] = field(default_factory=list)
    size: int = 0


class Builder:
    """Collects objects into frames of about FRAME_BYTES of plain content; deltas into frames of
    their own.
    """

    def __init__(self, level: int | None) -> None:
        """`level` is zstd's; None keeps frames raw."""
        self._level = level
        self._whole, self._deltas = _Open(), _Open()
        self._frames: list[Frame] = []
        self.stored_bytes = 0

    def add(self, each: ObjectId, plain: BytesLike) -> None:
        """Add an object as a whole."""
        self._append(self._whole, FrameMember(each, len(plain)), plain)

    def add_delta(self, each: ObjectId, delta: bytes, base: bytes) -> None:
        """Add an object as the delta that `xor` made of it and its base, whose digest is given."""
        self._append(self._deltas, FrameMember(each, len(delta), base), delta)

    def _append(self, to: _Open, member: FrameMember, content: BytesLike) -> None:
        to.parts.append(content)
        to.members.append(member)
        to.size += member.length
        if to.size >= FRAME_BYTES or len(to.members) >= PACK_OBJECTS_MAX // 2:
            self._close(to)

    def _close(self, frame: _Open) -> None:
        if not frame.members:
            return
        stored = chunk.encode(b"".join(frame.parts), self._level)
        made = Frame(stored[0], stored[chunk.HEADER_BYTES :], frame.members)
        self.stored_bytes += made.stored_bytes
        self._frames.append(made)
        frame.parts, frame.members, frame.size = [], [], 0

    def full_frames(self, bytes_min: int = 0) -> list[Frame]:
        """Take the full frames if they have that many bytes; incomplete frames stay."""
        if sum(frame.stored_bytes for frame in self._frames) < bytes_min:
            return []
        frames, self._frames = self._frames, []
        return frames

    def finish(self) -> list[Frame]:
        """Take all remaining frames."""
        self._close(self._whole)
        self._close(self._deltas)
        return self.full_frames()


def xor(plain: BytesLike, base: BytesLike) -> bytes:
    """Each byte of `plain` XOR that of `base`, over the length of the base; its own inverse."""
    length = min(len(plain), len(base))
    mixed = int.from_bytes(plain[:length], "little") ^ int.from_bytes(base[:length], "little")
    return mixed.to_bytes(length, "little") + plain[length:]


def pays(delta: bytes, kind: ObjectKind) -> bool:
    """Whether a delta is small enough; otherwise the object is better stored whole."""
    share = DELTA_SAME_FRACTION_NODE_MIN if kind is ObjectKind.NODE else DELTA_SAME_FRACTION_MIN
    return delta.count(0) >= share * len(delta)


def packs_of(frames: Sequence[Frame], bytes_max: int) -> Iterator[list[Frame]]:
    """The frames in order, as many to a pack as `bytes_max` allows, at least one."""
    pack: list[Frame] = []
    size = objects = 0
    for frame in frames:
        full = size + frame.stored_bytes > bytes_max or len(pack) >= PACK_FRAMES_MAX
        if pack and (full or objects + len(frame.members) > PACK_OBJECTS_MAX):
            yield pack
            pack, size, objects = [], 0, 0
        pack.append(frame)
        size += frame.stored_bytes
        objects += len(frame.members)
    if pack:
        yield pack


def encode(frames: Sequence[Frame]) -> bytes:
    """The bytes of a pack of these frames; InvalidInputError when they are too many."""
    members = [member for frame in frames for member in frame.members]
    if not members or len(members) > PACK_OBJECTS_MAX or len(frames) > PACK_FRAMES_MAX:
        raise InvalidInputError(f"{len(members)} objects in {len(frames)} frames make no pack")
    slots = {member.id.digest: slot for slot, member in enumerate(members)}
    flags = bytes(FLAG_NODE * m.id.is_node + FLAG_DELTA * bool(m.base) for m in members)
    bases = [slots.get(m.base, OUTSIDE) for m in members if m.base]
    table = b"".join(
        (
            flags,
            _packed("I", [m.length for m in members]),
            *(FRAME.pack(f.kind, len(f.members), len(f.payload)) for f in frames),
            _packed("H", bases),
            *(m.base for m in members if m.base and m.base not in slots),
        )
    )
    stored = chunk.encode(table)
    return b"".join(
        (
            HEADER.pack(PACK_VERSION, len(members), len(frames), len(stored)),
            *(m.id.digest for m in members),
            stored,
            *(f.payload for f in frames),
        )
    )


def _packed(code: str, values: list[int]) -> bytes:
    packed = array(code, values)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


class PackDirectory:
    """What a pack holds, decoded and checked; the frames stay where they are."""

    __slots__ = ("_bases", "_digests", "_ends", "_first", "_flags", "_frames", "lengths", "objects")

    def __init__(self, pack: BytesLike) -> None:
        """CorruptionError for anything but a pack; memory is bounded by the limits of a pack."""
        view = memoryview(pack)
        if len(view) < HEADER.size:
            raise CorruptionError(f"a pack of {len(view)} bytes is shorter than its header")
        version, self.objects, count, table_bytes = HEADER.unpack_from(view)
        if version != PACK_VERSION:
            raise CorruptionError(f"pack version {version} is not known, only {PACK_VERSION} is")
        if not (0 < self.objects <= PACK_OBJECTS_MAX and 0 < count <= PACK_FRAMES_MAX):
            raise CorruptionError(f"a pack of {self.objects} objects in {count} frames")
        table_start = HEADER.size + DIGEST_BYTES * self.objects
        body = table_start + table_bytes
        if body > len(view):
            raise CorruptionError("a pack ends before its table does")
        self._digests = bytes(view[HEADER.size : table_start])
        table = chunk.decode(view[table_start:body], _TABLE_BYTES_MAX)
        self._read_table(table, count, body, len(view))

    def _read_table(self, table: bytes, count: int, body: int, end: int) -> None:
        objects = self.objects
        at = objects * 5 + count * FRAME.size
        self._flags = table[:objects]
        deltas = sum(flag >> 1 & 1 for flag in self._flags)
        if len(table) < at + 2 * deltas or max(self._flags) > FLAG_NODE | FLAG_DELTA:
            raise CorruptionError("the table of a pack is cut or has unknown flags")
        self.lengths = _unpacked("I", table[objects : objects * 5])
        self._read_frames(table[objects * 5 : at], body, end)
        slots = _unpacked("H", table[at : at + 2 * deltas])
        outside = table[at + 2 * deltas :]
        if len(outside) != DIGEST_BYTES * slots.count(OUTSIDE):
            raise CorruptionError("the table of a pack has another number of bases than deltas")
        self._bases: dict[int, int | bytes] = {}
        delta_slots = (slot for slot, flag in enumerate(self._flags) if flag & FLAG_DELTA)
        used = 0
        for slot, base in zip(delta_slots, slots, strict=True):
            if base == OUTSIDE:
                self._bases[slot] = outside[used : used + DIGEST_BYTES]
                used += DIGEST_BYTES
            elif base >= objects:
                raise CorruptionError(f"a delta has the base {base} in a pack of {objects}")
            else:
                self._bases[slot] = base

    def _read_frames(self, raw: bytes, start: int, end: int) -> None:
        """Kind, place and plain length of each frame; the objects of a frame follow each other."""
        self._frames: list[tuple[int, int, int, int]] = []
        self._first: list[int] = []
        self._ends = array("Q", accumulate(self.lengths))
        slot = plain = 0
        for kind, members, stored in FRAME.iter_unpack(raw):
            self._first.append(slot)
            slot += members
            if not members or slot > self.objects:
                raise CorruptionError("the frames of a pack have another number of objects")
            length = self._ends[slot - 1] - plain
            plain += length
            if length > FRAME_BYTES_MAX:
                raise CorruptionError(f"a frame declares {length} bytes of plain content")
            self._frames.append((kind, start, stored, length))
            start += stored
        if slot != self.objects or start != end:
            raise CorruptionError("a pack is longer or shorter than its frames")

    def digest(self, slot: int) -> bytes:
        """Digest of an object, 32 bytes."""
        return self._digests[slot * DIGEST_BYTES : (slot + 1) * DIGEST_BYTES]

    def digests(self) -> Iterator[bytes]:
        """All digests in the order of the slots."""
        return (self.digest(slot) for slot in range(self.objects))

    def id(self, slot: int) -> ObjectId:
        """Kind and digest of an object."""
        return ObjectId(self.kind(slot), self.digest(slot))

    def ids(self) -> Iterator[ObjectId]:
        """All objects in the order of the slots."""
        return (self.id(slot) for slot in range(self.objects))

    def kind(self, slot: int) -> ObjectKind:
        """Kind of the object."""
        return ObjectKind.NODE if self._flags[slot] & FLAG_NODE else ObjectKind.CHUNK

    def base(self, slot: int) -> int | bytes | None:
        """None for a whole object; for a delta the slot of its base, or the digest of one in
        another pack.
        """
        return self._bases.get(slot)

    def base_digest(self, slot: int) -> bytes | None:
        """Digest of the base of a delta; None for a whole object."""
        base = self._bases.get(slot)
        return self.digest(base) if isinstance(base, int) else base

    def frame(self, slot: int) -> int:
        """Number of the frame that holds the object."""
        return bisect_right(self._first, slot) - 1

    def content(self, pack: BytesLike, number: int) -> bytes:
        """Plain bytes of a frame of the pack that this directory belongs to; CorruptionError."""
        kind, start, stored, length = self._frames[number]
        return chunk.decode_payload(kind, length, memoryview(pack)[start : start + stored])

    def piece(self, slot: int, content: bytes) -> bytes:
        """The object, or its delta, in the plain content of its frame."""
        first = self._first[self.frame(slot)]
        skipped = self._ends[first - 1] if first else 0
        end = self._ends[slot] - skipped
        return content[end - self.lengths[slot] : end]

    def share(self, slot: int) -> int:
        """Bytes of its frame that an object accounts for, by its length, and its digest."""
        _, _, stored, length = self._frames[self.frame(slot)]
        return stored * self.lengths[slot] // max(1, length) + DIGEST_BYTES

    def stored_bytes(self) -> int:
        """Bytes of all frames and digests."""
        return sum(frame[2] for frame in self._frames) + len(self._digests)

    def counts(self) -> tuple[int, int, int]:
        """(chunks, plain bytes of all chunks, nodes)."""
        nodes = sum(flag & FLAG_NODE for flag in self._flags)
        pairs = zip(self.lengths, self._flags, strict=True)
        plain = sum(length for length, flag in pairs if not flag & FLAG_NODE)
        return self.objects - nodes, plain, nodes


def _unpacked(code: str, raw: bytes) -> array[int]:
    values: array[int] = array(code)
    values.frombytes(raw)
    if sys.byteorder == "big":
        values.byteswap()
    return values
