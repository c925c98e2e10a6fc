"""The stored encoding of chunks and nodes: one kind byte, the plain length, then the payload.

A chunk's key is the hash of its plain content, so the same chunk may be stored in several
encodings.
"""

from __future__ import annotations

import struct
import threading
from functools import lru_cache
from typing import TYPE_CHECKING

import zstandard

from diffkeeper.errors import CorruptionError, InvalidInputError
from diffkeeper.hashing import DIGEST_BYTES, chunk_digest

if TYPE_CHECKING:
    from diffkeeper.hashing import BytesLike

ZERO_DIGESTS_MAX = 4_096  # lengths, up to a chunk's, for which the digest of zeros is cached

HOLE = bytes(DIGEST_BYTES)  # reference to a chunk-sized hole, which is stored nowhere
KIND_RAW = 0
KIND_ZSTD = 1
KIND_DELTA = 2  # reserved: deltas are in packs
LEVEL_DEFAULT = 3
HEADER = struct.Struct("<BI")
HEADER_BYTES = HEADER.size
PLAIN_BYTES_MAX = 0xFFFF_FFFF
_PROBE_BYTES = 64


class _Contexts(threading.local):
    """zstd contexts are costly to make and not safe to share, so each thread keeps its own."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()


_contexts = _Contexts()


def _compressor(level: int) -> zstandard.ZstdCompressor:
    found = _contexts.compressors.get(level)
    if found is None:
        found = zstandard.ZstdCompressor(level=level, write_content_size=True)
        _contexts.compressors[level] = found
    return found


def encode(plain: BytesLike, level: int | None = LEVEL_DEFAULT) -> bytes:
    """Stored encoding of `plain`; `level` is zstd's, None stores it raw.

    It is also raw if zstd does not make it smaller. InvalidInputError above 4 GiB.
    """
    length = len(plain)
    if length > PLAIN_BYTES_MAX:
        raise InvalidInputError(f"an object of {length} bytes exceeds {PLAIN_BYTES_MAX}")
    if level is not None:
        payload = _compressor(level).compress(plain)
        if len(payload) < length:
            return HEADER.pack(KIND_ZSTD, length) + payload
    return b"".join((HEADER.pack(KIND_RAW, length), plain))


def plain_length(stored: BytesLike) -> int:
    """Declared length in bytes of the plain content; CorruptionError when the header is cut."""
    if len(stored) < HEADER_BYTES:
        raise CorruptionError(f"a stored object of {len(stored)} bytes is shorter than its header")
    length: int = HEADER.unpack_from(stored)[1]
    return length


def decode(stored: BytesLike, plain_max: int) -> bytes:
    """Plain content of at most `plain_max` bytes; raises CorruptionError and nothing else.

    A larger declared length is refused before a byte is decompressed.
    """
    length = plain_length(stored)
    if length > plain_max:
        raise CorruptionError(f"a stored object declares {length} bytes, at most {plain_max} fit")
    return decode_payload(stored[0], length, memoryview(stored)[HEADER_BYTES:])


def decode_payload(kind: int, length: int, payload: memoryview) -> bytes:
    """Plain content of `length` bytes from the payload alone; CorruptionError and nothing else."""
    if kind == KIND_RAW:
        plain = bytes(payload)
    elif kind == KIND_ZSTD:
        plain = _decompress(payload, length)
    else:
        raise CorruptionError(f"stored objects of kind {kind} are not known")
    if len(plain) != length:
        raise CorruptionError(f"a stored object holds {len(plain)} bytes and declares {length}")
    return plain


def _decompress(payload: memoryview, length: int) -> bytes:
    try:
        # The frame's own size decides how much zstd allocates, so it is compared first.
        declared = zstandard.frame_content_size(payload)
        if declared != length:
            raise CorruptionError(f"a zstd frame declares {declared} bytes instead of {length}")
        return _contexts.decompressor.decompress(
            payload, max_output_size=length, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise CorruptionError(f"a stored object does not decompress: {error}") from None


def is_zero(data: BytesLike) -> bool:
    """Whether every byte is zero; true for no bytes at all."""
    probe = min(len(data), _PROBE_BYTES)
    # Most chunks differ in their first bytes, so the full comparison (and copy) is seldom needed.
    if bytes(data[:probe]) != bytes(probe):
        return False
    return bytes(data) == bytes(len(data))


@lru_cache(maxsize=ZERO_DIGESTS_MAX)
def zero_digest(length: int) -> bytes:
    """Digest of `length` zero bytes, 32 bytes; cached for the last few lengths."""
    return chunk_digest(bytes(length))
