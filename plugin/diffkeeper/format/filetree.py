"""Merkle tree over the chunk references of one file.

The shape follows from the number of chunks alone, and a subtree of holes is HOLE itself, so that
equal files have equal roots and a sparse tebibyte costs a handful of nodes. A file of one chunk
has that chunk's digest as its root, and no node.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, repeat
from typing import TYPE_CHECKING

from diffkeeper.errors import CorruptionError, InvalidInputError
from diffkeeper.format.chunk import HOLE
from diffkeeper.format.entry import EMPTY
from diffkeeper.format.node import HEADER_BYTES, Get, NodeType, Put, expect, header
from diffkeeper.hashing import DIGEST_BYTES
from diffkeeper.limits import FILE_NODE_FANOUT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

SHAPE = struct.Struct("<BH")  # level above the chunks, number of references
_REFS_START = HEADER_BYTES + SHAPE.size
LEVEL_MAX = 8  # 256**8 chunks exceed any file


@lru_cache(maxsize=FILE_NODE_FANOUT)
def _references(count: int) -> struct.Struct:
    """Decoder of so many digests at once: a capture decodes a node for every few chunks."""
    return struct.Struct(f"{DIGEST_BYTES}s" * count)


def height(count: int) -> int:
    """Levels of nodes over `count` chunks: 0 for one chunk, 1 for up to FILE_NODE_FANOUT."""
    level, covered = 0, 1
    while covered < count:
        level, covered = level + 1, covered * FILE_NODE_FANOUT
    return level


def _encode(level: int, refs: list[bytes]) -> bytes:
    return b"".join((header(NodeType.FILE), SHAPE.pack(level, len(refs)), *refs))


def decode(encoded: bytes) -> tuple[int, list[bytes]]:
    """(level, references) of a file node; those of level 1 are chunks. Or CorruptionError."""
    expect(encoded, NodeType.FILE)
    if len(encoded) < _REFS_START:
        raise CorruptionError("file node is cut off")
    level, count = SHAPE.unpack_from(encoded, HEADER_BYTES)
    if not (1 <= level <= LEVEL_MAX and 1 <= count <= FILE_NODE_FANOUT):
        raise CorruptionError(f"file node of level {level} with {count} references")
    if len(encoded) != _REFS_START + count * DIGEST_BYTES:
        raise CorruptionError("file node: its length is not what its count says")
    refs = list(_references(count).unpack_from(encoded, _REFS_START))
    if refs.count(HOLE) == count:
        raise CorruptionError("file node holds nothing but holes")
    return level, refs


def _store(level: int, refs: list[bytes], put: Put) -> bytes:
    if refs.count(HOLE) == len(refs):
        return HOLE
    return put(_encode(level, refs))


def build(refs: Iterable[bytes], count: int, put: Put) -> bytes:
    """Root of the tree over `refs`, of which there are exactly `count`.

    Holds one node for each level in memory. InvalidInputError when the count is wrong.
    """
    source = iter(refs)
    pending: list[list[bytes]] = [[] for _ in range(height(count) + 1)]
    left = count
    while left:
        group = list(islice(source, min(left, FILE_NODE_FANOUT)))
        if not group:
            raise InvalidInputError(f"{left} of {count} chunk references are missing")
        left -= len(group)
        pending[0].extend(group)
        _carry(pending, put)
    if next(source, None) is not None:
        raise InvalidInputError(f"there are more than {count} chunk references")
    for level in range(len(pending) - 1):
        if pending[level]:
            pending[level + 1].append(_store(level + 1, pending[level], put))
    return pending[-1][0] if count else EMPTY


def _carry(pending: list[list[bytes]], put: Put) -> None:
    """Turn every full level into one reference of the level above it."""
    for level in range(len(pending) - 1):
        if len(pending[level]) < FILE_NODE_FANOUT:
            return
        full = pending[level][:FILE_NODE_FANOUT]
        pending[level] = pending[level][FILE_NODE_FANOUT:]
        pending[level + 1].append(_store(level + 1, full, put))


@dataclass(slots=True)
class _Update:
    """One update in progress: the changed indices in order, and both lengths."""

    old_count: int
    new_count: int
    changes: Mapping[int, bytes]
    indices: list[int]
    get: Get
    put: Put

    def subtree(self, level: int, position: int, old: bytes) -> bytes:
        """New digest of the subtree at `position` of `level`, whose digest was `old`."""
        span = FILE_NODE_FANOUT**level
        first = position * span
        last = min(first + span, self.new_count)
        low, high = bisect_left(self.indices, first), bisect_left(self.indices, last)
        if level == 0:
            return self.changes[first] if low < high else old
        same_extent = min(first + span, self.old_count) == last
        if low == high and (same_extent or old == HOLE):
            return old
        below = FILE_NODE_FANOUT ** (level - 1)
        width = -(-(last - first) // below)
        refs = self.children(level, first, old)
        refs = (refs + [HOLE] * (width - len(refs)))[:width]
        touched = {(index - first) // below for index in self.indices[low:high]}
        # Of the unchanged children only the one at the shorter length's end changes its extent.
        edge = (min(self.old_count, self.new_count) - 1 - first) // below
        if 0 <= edge < width:
            touched.add(edge)
        base = position * FILE_NODE_FANOUT
        for i in touched:
            refs[i] = self.subtree(level - 1, base + i, refs[i])
        return _store(level, refs, self.put)

    def children(self, level: int, first: int, old: bytes) -> list[bytes]:
        if old == HOLE or first >= self.old_count:
            return []
        above = height(self.old_count)
        if level > above:
            return [old]  # the old tree was lower: it is the leftmost path of the new one
        return _children(old, level, self.old_count - first, self.get)


def update(
    root: bytes,
    old_count: int,
    new_count: int,
    changes: Mapping[int, bytes],
    get: Get,
    put: Put,
) -> bytes:
    """Root after `changes` (index to reference) and a change of length; equals a fresh build.

    Reads and writes only the changed paths and the right edge. Indices past `old_count` that are
    not in `changes` become HOLE. A short last chunk that grows is a change of its own: the caller
    includes it. InvalidInputError for an index outside of the new length.
    """
    indices = sorted(changes)
    if indices and not 0 <= indices[0] <= indices[-1] < new_count:
        raise InvalidInputError(f"chunk index outside of 0 to {new_count - 1}")
    if new_count == 0:
        return EMPTY
    old, old_height, new_height = root, height(old_count), height(new_count)
    if old_count == 0:
        old = HOLE
    while old_height > new_height and old != HOLE:
        old = _children(old, old_height, old_count, get)[0]
        old_height -= 1
    job = _Update(old_count, new_count, changes, indices, get, put)
    return job.subtree(new_height, 0, old)


def _children(digest: bytes, level: int, count: int, get: Get) -> list[bytes]:
    """References of the node over the next `count` chunks; CorruptionError on another shape."""
    found_level, refs = decode(get(digest))
    below = FILE_NODE_FANOUT ** (level - 1)
    width = min(FILE_NODE_FANOUT, -(-count // below))
    if found_level != level or len(refs) != width:
        raise CorruptionError(
            f"file node {digest.hex()} has level {found_level} and {len(refs)} references where"
            f" level {level} and {width} belong"
        )
    return refs


def refs(
    root: bytes, count: int, get: Get, start: int = 0, stop: int | None = None
) -> Iterator[bytes]:
    """References of the chunks `start` to `stop` (default: all), HOLE among them, in order."""
    end = count if stop is None else min(stop, count)
    at = max(start, 0)
    for index, digest in _runs(root, count, get, at, end):
        yield from repeat(HOLE, index - at)
        yield digest
        at = index + 1
    yield from repeat(HOLE, max(0, end - at))


class Lookup:
    """References of single chunks of one tree; asked in rising order, a node is decoded once."""

    def __init__(self, root: bytes, count: int, get: Get) -> None:
        self._root, self._count, self._get = root, count, get
        self._path: dict[int, tuple[int, list[bytes]]] = {}  # level to first chunk and references

    def at(self, index: int) -> bytes:
        """The reference of a chunk; HOLE past the end."""
        if not 0 <= index < self._count:
            return HOLE
        digest, first = self._root, 0
        for level in range(height(self._count), 0, -1):
            if digest == HOLE:
                return HOLE
            known = self._path.get(level)
            if known is None or known[0] != first:
                known = first, _children(digest, level, self._count - first, self._get)
                self._path[level] = known
            below = FILE_NODE_FANOUT ** (level - 1)
            offset = (index - first) // below
            digest, first = known[1][offset], first + offset * below
        return digest


def runs(
    root: bytes, count: int, get: Get, start: int = 0, stop: int | None = None
) -> Iterator[tuple[int, bytes]]:
    """(index, reference) of every chunk that is not a HOLE, in order; skips empty subtrees."""
    return _runs(root, count, get, max(start, 0), count if stop is None else min(stop, count))


def _runs(root: bytes, count: int, get: Get, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    if count == 0 or root == HOLE or start >= end:
        return
    stack = [(root, height(count), 0)]
    while stack:
        digest, level, first = stack.pop()
        if level == 0:
            yield first, digest
            continue
        below = FILE_NODE_FANOUT ** (level - 1)
        children = _children(digest, level, count - first, get)
        if level == 1:
            low, high = max(start - first, 0), min(end - first, len(children))
            for offset in range(low, high):
                if children[offset] != HOLE:
                    yield first + offset, children[offset]
            continue
        for offset in range(len(children) - 1, -1, -1):
            begin = first + offset * below
            if children[offset] != HOLE and begin < end and begin + below > start:
                stack.append((children[offset], level - 1, begin))
