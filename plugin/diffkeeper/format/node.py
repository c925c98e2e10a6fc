"""The two bytes that every Merkle node starts with: what it is, and the version of its layout."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from diffkeeper.errors import CorruptionError

NODE_VERSION = 1
HEADER_BYTES = 2

Get = Callable[[bytes], bytes]  # digest of a node to its encoded bytes
Put = Callable[[bytes], bytes]  # encoded bytes of a node to its digest


class NodeType(IntEnum):
    """First byte of a node."""

    FILE = 1
    DIRECTORY_LEAF = 2
    DIRECTORY_INNER = 3
    XATTRS = 4
    ROOT = 5


def header(node_type: NodeType) -> bytes:
    """The first two bytes of a node of this type."""
    return bytes((node_type, NODE_VERSION))


def node_type(encoded: bytes) -> NodeType:
    """Type of an encoded node; CorruptionError when it is unknown or of an unknown version."""
    if len(encoded) < HEADER_BYTES or not NodeType.FILE <= encoded[0] <= NodeType.ROOT:
        raise CorruptionError(f"not a Merkle node: it starts with {encoded[:HEADER_BYTES].hex()!r}")
    if encoded[1] != NODE_VERSION:
        raise CorruptionError(f"node version {encoded[1]} is not known, only {NODE_VERSION} is")
    return NodeType(encoded[0])


def expect(encoded: bytes, wanted: NodeType) -> None:
    """CorruptionError unless `encoded` is a node of the `wanted` type."""
    found = node_type(encoded)
    if found != wanted:
        raise CorruptionError(f"a {found.name} node stands where a {wanted.name} node belongs")
