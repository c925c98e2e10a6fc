"""The two nodes of a directory tree: leaves with entries, inner nodes with counted children."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from diffkeeper.errors import CorruptionError, InvalidInputError
from diffkeeper.format.entry import EMPTY
from diffkeeper.format.node import HEADER_BYTES, NodeType, expect, header
from diffkeeper.hashing import DIGEST_BYTES
from diffkeeper.limits import DIRECTORY_FANOUT, DIRECTORY_LEAF_ENTRIES_MAX, NAME_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Child = tuple[bytes, int]  # digest (EMPTY for none) and number of entries below it
NO_CHILD: Child = (EMPTY, 0)
COUNT = struct.Struct("<H")
_TABLE_START = HEADER_BYTES + COUNT.size
CHILD = struct.Struct(f"<{DIGEST_BYTES}sQ")
_CHILD_COUNT_MAX = (1 << 48) - 1


def encode_leaf(raws: Mapping[bytes, bytes]) -> bytes:
    """Leaf of name to encoded entry; InvalidInputError when a name has not 1 to 255 bytes."""
    names = sorted(raws)
    entries = [raws[name] for name in names]
    lengths = [length for name in names for length in (len(name), len(raws[name]))]
    if names and not 0 < min(map(len, names)) <= max(map(len, names)) <= NAME_BYTES_MAX:
        raise InvalidInputError(f"a file name has 1 to {NAME_BYTES_MAX} bytes")
    table = struct.pack(f"<H{len(lengths)}H", len(names), *lengths)
    return b"".join((header(NodeType.DIRECTORY_LEAF), table, *names, *entries))


def decode_leaf(encoded: bytes) -> dict[bytes, bytes]:
    """Name to encoded entry, sorted by name; CorruptionError unless it is exactly a leaf."""
    expect(encoded, NodeType.DIRECTORY_LEAF)
    try:
        (count,) = COUNT.unpack_from(encoded, HEADER_BYTES)
        lengths = struct.unpack_from(f"<{2 * count}H", encoded, _TABLE_START)
    except struct.error:
        raise CorruptionError("directory leaf is cut off") from None
    if not 0 < count <= DIRECTORY_LEAF_ENTRIES_MAX:
        raise CorruptionError(f"directory leaf with {count} entries")
    start = _TABLE_START + 4 * count
    at, entry_at = start, start + sum(lengths[::2])
    if entry_at + sum(lengths[1::2]) != len(encoded):
        raise CorruptionError("directory leaf: its length is not what its table says")
    raws: dict[bytes, bytes] = {}
    last = b""
    for name_length, entry_length in zip(lengths[::2], lengths[1::2], strict=True):
        name = encoded[at : at + name_length]
        if name <= last or name_length > NAME_BYTES_MAX:
            raise CorruptionError(f"directory leaf: the name {name[:64]!r} is out of order")
        raws[name] = encoded[entry_at : entry_at + entry_length]
        at += name_length
        entry_at += entry_length
        last = name
    return raws


def encode_inner(children: Sequence[Child]) -> bytes:
    """Inner node of DIRECTORY_FANOUT children; those without entries take no room."""
    bitmap = sum(1 << i for i, (_, entries) in enumerate(children) if entries)
    packed = [CHILD.pack(digest, entries) for digest, entries in children if entries]
    return b"".join((header(NodeType.DIRECTORY_INNER), COUNT.pack(bitmap), *packed))


def decode_inner(encoded: bytes) -> list[Child]:
    """The DIRECTORY_FANOUT children, NO_CHILD among them; CorruptionError unless canonical."""
    expect(encoded, NodeType.DIRECTORY_INNER)
    if len(encoded) < _TABLE_START:
        raise CorruptionError("inner directory node is cut off")
    (bitmap,) = COUNT.unpack_from(encoded, HEADER_BYTES)
    if len(encoded) != _TABLE_START + bitmap.bit_count() * CHILD.size:
        raise CorruptionError("inner directory node: its length is not what its bitmap says")
    children = [NO_CHILD] * DIRECTORY_FANOUT
    slots = (i for i in range(DIRECTORY_FANOUT) if bitmap >> i & 1)
    for slot, child in zip(slots, CHILD.iter_unpack(encoded[_TABLE_START:]), strict=True):
        digest, entries = child
        if digest == EMPTY or not 0 < entries <= _CHILD_COUNT_MAX:
            raise CorruptionError(f"inner directory node: child {slot} has {entries} entries")
        children[slot] = (digest, entries)
    if sum(entries for _, entries in children) <= DIRECTORY_LEAF_ENTRIES_MAX:
        raise CorruptionError("inner directory node with so few entries that it must be a leaf")
    return children
