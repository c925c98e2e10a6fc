"""A volume with its whole history as one stream of checksummed frames; pure, see FORMAT.md.

A reader needs no more memory than the largest frame; it detects a changed byte in the frame that
contains it, and a cut anywhere by the missing trailer.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from diffkeeper.errors import CorruptionError, FormatVersionError, InvalidInputError
from diffkeeper.format.chunk import HEADER_BYTES as OBJECT_HEADER_BYTES
from diffkeeper.hashing import DIGEST_BYTES, chunk_digest
from diffkeeper.limits import CHUNK_BYTES_MAX, NODE_BYTES_MAX, RECORD_BYTES_MAX, TAG_CHARACTERS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

ARCHIVE_MAGIC: Final = b"DKVOLUME"
ARCHIVE_VERSION: Final = 1
PREFACE = struct.Struct("<8sHH")  # magic, archive version, format version of the objects
FRAME = struct.Struct("<BI")  # kind, length of the payload
TRAILER = struct.Struct("<QQQ32s")  # chunks, nodes, snapshots, digest of all before this frame
TAG = struct.Struct("<Q")  # seq, before the tag itself


class FrameKind(IntEnum):
    """What a frame holds."""

    VOLUME = 1
    CHUNK = 2
    NODE = 3
    SNAPSHOT = 4
    END = 5
    TAG = 6


PAYLOAD_BYTES_MAX: Final = {
    FrameKind.VOLUME: RECORD_BYTES_MAX,
    FrameKind.CHUNK: DIGEST_BYTES + OBJECT_HEADER_BYTES + CHUNK_BYTES_MAX,
    FrameKind.NODE: DIGEST_BYTES + OBJECT_HEADER_BYTES + NODE_BYTES_MAX,
    FrameKind.SNAPSHOT: RECORD_BYTES_MAX,
    FrameKind.END: TRAILER.size,
    FrameKind.TAG: TAG.size + TAG_CHARACTERS_MAX,
}
_COUNTED: Final = (FrameKind.CHUNK, FrameKind.NODE, FrameKind.SNAPSHOT)


@dataclass(frozen=True, slots=True)
class ArchiveFrame:
    """One frame whose digest was checked; for objects the payload is digest, stored object."""

    kind: FrameKind
    payload: bytes


def encode_tag(name: str, seq: int) -> bytes:
    """Payload of a tag's frame; `name` is ASCII."""
    return TAG.pack(seq) + name.encode("ascii")


def decode_tag(payload: bytes) -> tuple[str, int]:
    """Tag and sequence number, or CorruptionError."""
    if len(payload) <= TAG.size or not payload[TAG.size :].isascii():
        raise CorruptionError("a tag of the archive is not one")
    return payload[TAG.size :].decode("ascii"), TAG.unpack_from(payload)[0]


class ArchiveEncoder:
    """Makes the bytes of one archive, in order; maintains the counts and the digest of
    everything.
    """

    def __init__(self) -> None:
        self._hash = blake3()
        self.counts: dict[FrameKind, int] = dict.fromkeys(_COUNTED, 0)

    def preface(self, format_version: int) -> bytes:
        """The first bytes; `format_version` is that of the store's objects and records."""
        return self._hashed(PREFACE.pack(ARCHIVE_MAGIC, ARCHIVE_VERSION, format_version))

    def frame(self, kind: FrameKind, payload: bytes) -> bytes:
        """One frame; InvalidInputError for a payload above its bound."""
        if len(payload) > PAYLOAD_BYTES_MAX[kind]:
            raise InvalidInputError(f"a {kind.name} frame of {len(payload)} bytes is too long")
        if kind in self.counts:
            self.counts[kind] += 1
        head = FRAME.pack(kind, len(payload)) + payload
        return self._hashed(head + chunk_digest(head))

    def end(self) -> bytes:
        """The trailer: the last bytes."""
        payload = TRAILER.pack(*self.counts.values(), self._hash.digest())
        return self.frame(FrameKind.END, payload)

    def _hashed(self, data: bytes) -> bytes:
        self._hash.update(data)
        return data


class Decoder:
    """Reads the bytes of one archive in pieces of any size, and returns its frames.

    CorruptionError for any bytes that no encoder makes, FormatVersionError for a newer version.
    """

    def __init__(self, format_version: int) -> None:
        self._newest = format_version
        self._buffer = bytearray()
        self._hash = blake3()
        self._begun = False
        self._frames = 0
        self.ended = False
        self.counts: dict[FrameKind, int] = dict.fromkeys(_COUNTED, 0)

    def feed(self, data: bytes) -> Iterator[ArchiveFrame]:
        """The frames that are complete now; exhaust this before the next piece."""
        self._buffer += data
        if not self._begun:
            if len(self._buffer) < PREFACE.size:
                self._check_magic()
                return
            self._preface()
        while (frame := self._next()) is not None:
            yield frame

    def finish(self) -> None:
        """End of input; CorruptionError unless the trailer was the last frame."""
        if not self.ended:
            raise CorruptionError("the archive is cut short: its trailer is missing")

    def _check_magic(self) -> None:
        if not ARCHIVE_MAGIC.startswith(self._buffer[: len(ARCHIVE_MAGIC)]):
            raise CorruptionError("this is not an archive of a volume's history")

    def _preface(self) -> None:
        self._check_magic()
        _, archive, store = PREFACE.unpack_from(self._buffer)
        if archive > ARCHIVE_VERSION or store > self._newest:
            raise FormatVersionError(
                f"the archive has version {archive} with objects of version {store}; this release"
                f" reads up to {ARCHIVE_VERSION} and {self._newest}"
            )
        if not archive or not store:
            raise CorruptionError("the archive has version 0")
        self._consume(PREFACE.size)
        self._begun = True

    def _consume(self, count: int) -> bytes:
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        self._hash.update(data)
        return data

    def _next(self) -> ArchiveFrame | None:
        """The next frame if it is complete."""
        if self.ended:
            if self._buffer:
                raise CorruptionError("the archive goes on after its trailer")
            return None
        if len(self._buffer) < FRAME.size:
            return None
        kind, length = self._head()
        if len(self._buffer) < FRAME.size + length + DIGEST_BYTES:
            return None
        before = self._hash.digest() if kind is FrameKind.END else b""
        whole = self._consume(FRAME.size + length + DIGEST_BYTES)
        if chunk_digest(whole[:-DIGEST_BYTES]) != whole[-DIGEST_BYTES:]:
            raise CorruptionError(f"frame {self._frames} of the archive is damaged")
        frame = ArchiveFrame(kind, whole[FRAME.size : -DIGEST_BYTES])
        if kind in self.counts:
            self.counts[kind] += 1
        if kind is FrameKind.END:
            self._end(frame.payload, before)
        self._frames += 1
        return frame

    def _head(self) -> tuple[FrameKind, int]:
        """Kind and length of the next frame, checked before its payload arrives."""
        number, length = FRAME.unpack_from(self._buffer)
        try:
            kind = FrameKind(number)
        except ValueError:
            raise CorruptionError(f"frame {self._frames} has the unknown kind {number}") from None
        if length > PAYLOAD_BYTES_MAX[kind]:
            raise CorruptionError(f"frame {self._frames} declares {length} bytes, too many")
        if (kind is FrameKind.VOLUME) != (self._frames == 0):
            raise CorruptionError(f"frame {self._frames} is a {kind.name}: out of order")
        return kind, length

    def _end(self, payload: bytes, before: bytes) -> None:
        if payload != TRAILER.pack(*self.counts.values(), before):
            raise CorruptionError("the archive is not what its trailer says")
        self.ended = True
