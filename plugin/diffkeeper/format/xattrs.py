"""The extended attributes of one file as one node, sorted by name."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from diffkeeper.errors import CorruptionError, InvalidInputError
from diffkeeper.format.node import HEADER_BYTES, NodeType, expect, header
from diffkeeper.limits import NAME_BYTES_MAX, XATTR_TOTAL_BYTES_MAX, XATTR_VALUE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

COUNT = struct.Struct("<H")
ITEM = struct.Struct("<BI")
_COUNT_MAX = 0xFFFF


def encode(attributes: Mapping[bytes, bytes]) -> bytes:
    """The node's bytes; InvalidInputError when a name or value exceeds its bound."""
    parts = [header(NodeType.XATTRS), COUNT.pack(min(len(attributes), _COUNT_MAX))]
    for name in sorted(attributes):
        value = attributes[name]
        if not 0 < len(name) <= NAME_BYTES_MAX or len(value) > XATTR_VALUE_BYTES_MAX:
            raise InvalidInputError(
                f"extended attribute {name[:NAME_BYTES_MAX]!r} of {len(value)} bytes is too long"
            )
        parts += (ITEM.pack(len(name), len(value)), name, value)
    encoded = b"".join(parts)
    if len(encoded) > XATTR_TOTAL_BYTES_MAX:
        raise InvalidInputError(
            f"extended attributes of {len(encoded)} bytes exceed {XATTR_TOTAL_BYTES_MAX}"
        )
    return encoded


def within_bounds(attributes: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The attributes that fit into one node, those of the system before those of users."""
    kept: dict[bytes, bytes] = {}
    room = XATTR_TOTAL_BYTES_MAX - HEADER_BYTES - COUNT.size
    for name in sorted(attributes, key=lambda name: (name.startswith(b"user."), name)):
        value = attributes[name]
        size = ITEM.size + len(name) + len(value)
        fits = 0 < len(name) <= NAME_BYTES_MAX and len(value) <= XATTR_VALUE_BYTES_MAX
        if fits and size <= room and len(kept) < _COUNT_MAX:
            kept[name] = value
            room -= size
    return kept


def decode(encoded: bytes) -> dict[bytes, bytes]:
    """Name to value, sorted by name; CorruptionError unless `encoded` is exactly such a node."""
    expect(encoded, NodeType.XATTRS)
    if len(encoded) > XATTR_TOTAL_BYTES_MAX:
        raise CorruptionError(f"xattr node of {len(encoded)} bytes exceeds its bound")
    attributes: dict[bytes, bytes] = {}
    last = b""
    try:
        (count,) = COUNT.unpack_from(encoded, HEADER_BYTES)
        position = HEADER_BYTES + COUNT.size
        for _ in range(count):
            name_length, value_length = ITEM.unpack_from(encoded, position)
            name_end = position + ITEM.size + name_length
            name = encoded[position + ITEM.size : name_end]
            if name <= last or value_length > XATTR_VALUE_BYTES_MAX:
                raise CorruptionError(f"xattr node: {name!r} is out of order or too long")
            position = name_end + value_length
            attributes[name] = encoded[name_end:position]
            last = name
    except struct.error:
        raise CorruptionError("xattr node is cut off") from None
    if position != len(encoded):
        raise CorruptionError("xattr node: its length is not what its items say")
    return attributes
