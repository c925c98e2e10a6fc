"""The root node of a snapshot: its digest is the Merkle root over all content and metadata."""

from __future__ import annotations

from diffkeeper.errors import CorruptionError, InvalidInputError
from diffkeeper.format.entry import Entry, Kind, decode_entry, encode_entry
from diffkeeper.format.node import HEADER_BYTES, NodeType, expect, header
from diffkeeper.hashing import DIGEST_BYTES


def encode_root(entry: Entry, links_root: bytes) -> bytes:
    """Node of the volume's root directory `entry` and the root of the links tree.

    InvalidInputError unless `entry` is a directory.
    """
    if entry.kind != Kind.DIRECTORY or len(links_root) != DIGEST_BYTES:
        raise InvalidInputError("a snapshot's root is a directory and a links root of 32 bytes")
    return header(NodeType.ROOT) + links_root + encode_entry(entry)


def decode_root(encoded: bytes) -> tuple[Entry, bytes]:
    """(entry of the volume's root directory, root of the links tree), or CorruptionError."""
    expect(encoded, NodeType.ROOT)
    links_end = HEADER_BYTES + DIGEST_BYTES
    entry = decode_entry(encoded[links_end:])
    if entry.kind != Kind.DIRECTORY:
        raise CorruptionError(f"a snapshot's root is a {entry.kind.name}, not a directory")
    return entry, encoded[HEADER_BYTES:links_end]
