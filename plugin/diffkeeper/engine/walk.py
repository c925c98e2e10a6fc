"""All objects that snapshots reach, children before what refers to them, in bounded memory.

A subtree that was walked is not walked again, as long as its digest is remembered: what changed
little since the snapshot before costs little. What is forgotten is given twice, never left out.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from diffkeeper import limits
from diffkeeper.errors import CorruptionError
from diffkeeper.format import dirnode, filetree, root, xattrs
from diffkeeper.format.chunk import HOLE, zero_digest
from diffkeeper.format.entry import EMPTY, Entry, Kind, chunk_count, decode_entry
from diffkeeper.format.node import NodeType, node_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_KEY_BYTES = 16  # of a digest: no two objects share as many by chance


class Window:
    """The digests that were met last; a fixed number of them."""

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._met: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, digest: bytes) -> bool:
        key = digest[:_KEY_BYTES]
        if key not in self._met:
            return False
        self._met.move_to_end(key)
        return True

    def add(self, digest: bytes) -> bool:
        """Remember it; false when it was remembered already."""
        if digest in self:
            return False
        self._met[digest[:_KEY_BYTES]] = None
        if len(self._met) > self._entries_max:
            self._met.popitem(last=False)
        return True


@dataclass(frozen=True, slots=True)
class Found:
    """One object: kind "chunk" or "node", digest, plain length in bytes, plain bytes of a node."""

    kind: str
    digest: bytes
    length: int
    plain: bytes = b""


@dataclass(frozen=True, slots=True)
class _Want:
    """Something that a node refers to. Of a file's tree: its entry and its first chunk."""

    digest: bytes
    chunk_bytes: int = 0  # of a chunk, else 0
    file: Entry | None = None
    first: int = 0


@dataclass(slots=True)
class _Level:
    """A node whose children are being walked."""

    want: _Want
    plain: bytes
    children: Iterator[_Want]
    ready: deque[tuple[_Want, bytes]] = field(default_factory=deque)


class Walk:
    """Walks snapshots one after the other; `nodes` gives checked plain nodes in order.

    `window_max`: how many chunks, and how many nodes, it remembers.
    """

    def __init__(
        self,
        nodes: Callable[[list[bytes]], list[bytes]],
        window_max: int = limits.WALK_WINDOW_MAX,
    ) -> None:
        self._fetch = nodes
        self._nodes = Window(window_max)
        self._chunks = Window(window_max)

    def objects(self, snapshot_root: bytes) -> Iterator[Found]:
        """What this snapshot reaches and the walk has not met; holes and zeros are no objects.

        Raises what `nodes` raises, and CorruptionError for a tree that no encoder makes.
        """
        if snapshot_root in self._nodes:
            return
        stack = [self._level(_Want(snapshot_root), self._fetch([snapshot_root])[0])]
        while stack:
            level = stack[-1]
            if not level.ready and not self._refill(level):
                stack.pop()
                if self._nodes.add(level.want.digest):
                    yield Found("node", level.want.digest, len(level.plain), level.plain)
                continue
            want, plain = level.ready.popleft()
            if want.chunk_bytes:
                if self._chunks.add(want.digest):
                    yield Found("chunk", want.digest, want.chunk_bytes)
            elif want.digest not in self._nodes:
                stack.append(self._level(want, plain))

    def _level(self, want: _Want, plain: bytes) -> _Level:
        return _Level(want, plain, wanted(want, plain))

    def _refill(self, level: _Level) -> bool:
        """Take the next children that are not known, with the plain bytes of the nodes."""
        while wants := list(islice(level.children, limits.WALK_BATCH_NODES)):
            wants = [w for w in wants if w.chunk_bytes or w.digest not in self._nodes]
            below = [w.digest for w in wants if not w.chunk_bytes]
            plain = iter(self._fetch(below) if below else ())
            level.ready.extend((w, b"" if w.chunk_bytes else next(plain)) for w in wants)
            if level.ready:
                return True
        return False


def wanted(want: _Want, plain: bytes) -> Iterator[_Want]:
    """What a node refers to, in order; CorruptionError for a node in the wrong place."""
    kind = node_type(plain)
    if kind == NodeType.FILE:
        yield from _of_file(want, plain)
    elif kind == NodeType.DIRECTORY_INNER:
        yield from (_Want(digest) for digest, entries in dirnode.decode_inner(plain) if entries)
    elif kind == NodeType.DIRECTORY_LEAF:
        for raw in dirnode.decode_leaf(plain).values():
            yield from of_entry(decode_entry(raw))
    elif kind == NodeType.ROOT:
        entry, links_root = root.decode_root(plain)
        if links_root != EMPTY:
            yield _Want(links_root)
        yield from of_entry(entry)
    else:
        xattrs.decode(plain)


def of_entry(entry: Entry) -> Iterator[_Want]:
    """What one entry refers to."""
    if entry.xattrs:
        yield _Want(entry.xattrs)
    if entry.content == EMPTY:
        return
    if entry.kind is not Kind.FILE:
        yield _Want(entry.content)
    elif chunk_count(entry.size, entry.chunk_bits) > 1:
        yield _Want(entry.content, file=entry)
    elif entry.content != zero_digest(_checked_length(entry, 0)):
        yield _Want(entry.content, chunk_bytes=entry.size)


def _of_file(want: _Want, plain: bytes) -> Iterator[_Want]:
    if want.file is None:
        raise CorruptionError(f"file node {want.digest.hex()} is no file's")
    level, refs = filetree.decode(plain)
    below = limits.FILE_NODE_FANOUT ** (level - 1)
    for number, digest in enumerate(refs):
        if digest == HOLE:
            continue
        first = want.first + number * below
        length = _checked_length(want.file, first)
        if level > 1:
            yield _Want(digest, file=want.file, first=first)
        elif digest != zero_digest(length):
            yield _Want(digest, chunk_bytes=length)


def _checked_length(entry: Entry, number: int) -> int:
    """Bytes of a file's chunk; CorruptionError past its end."""
    step = 1 << entry.chunk_bits
    length = min(step, entry.size - number * step)
    if length <= 0:
        raise CorruptionError(f"a file of {entry.size} bytes has a chunk {number}")
    return length
