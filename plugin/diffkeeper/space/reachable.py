"""All objects that snapshots reach, children before their parents, in bounded memory.

A subtree that was walked is skipped, as long as its digest is remembered: what changed little since
the snapshot before costs little. An object that was dropped from memory is returned twice, never
left out.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from diffkeeper import limits
from diffkeeper.format.merkle import Ref, references, snapshot_root
from diffkeeper.hashing import SHORT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from diffkeeper.format.ids import Root

WALK_BATCH_NODES = 32


class Window:
    """The most recent digests; a fixed number of them.

    One thread calls it, for every object of a store: a `store.lru.Lru`, with its lock, takes 2.5
    times as long.
    """

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._met: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, digest: bytes) -> bool:
        key = digest[:SHORT_BYTES]
        if key not in self._met:
            return False
        self._met.move_to_end(key)
        return True

    def add(self, digest: bytes) -> bool:
        """Remember a digest; false when it was remembered already."""
        if digest in self:
            return False
        self._met[digest[:SHORT_BYTES]] = None
        if len(self._met) > self._entries_max:
            self._met.popitem(last=False)
        return True


@dataclass(frozen=True, slots=True)
class Found:
    """One object: its digest, its plain length in bytes, the plain bytes of a node."""

    ref: Ref
    length: int
    plain: bytes = b""

    @property
    def digest(self) -> bytes:
        """The key of the object."""
        return self.ref.digest

    @property
    def is_node(self) -> bool:
        """Whether it is a node; else it is a chunk."""
        return self.ref.is_node


@dataclass(slots=True)
class _NodeLevel:
    """A node whose children are being walked."""

    ref: Ref
    plain: bytes
    children: Iterator[Ref]
    ready: deque[tuple[Ref, bytes]] = field(default_factory=deque)


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

    def objects(self, root: Root) -> Iterator[Found]:
        """The objects of this snapshot that the walk has not returned yet; holes and zeros are no
        objects.

        Raises what `nodes` raises, and CorruptionError for a tree that no encoder makes.
        """
        if root in self._nodes:
            return
        stack = [_level(snapshot_root(root), self._fetch([root])[0])]
        while stack:
            level = stack[-1]
            if not level.ready and not self._refill(level):
                stack.pop()
                if self._nodes.add(level.ref.digest):
                    yield Found(level.ref, len(level.plain), level.plain)
                continue
            ref, plain = level.ready.popleft()
            if not ref.is_node:
                if self._chunks.add(ref.digest):
                    yield Found(ref, ref.length)
            elif ref.digest not in self._nodes:
                stack.append(_level(ref, plain))

    def _refill(self, level: _NodeLevel) -> bool:
        """Load the next children that are not known, with the plain bytes of the nodes."""
        while refs := list(islice(level.children, WALK_BATCH_NODES)):
            refs = [ref for ref in refs if not ref.is_node or ref.digest not in self._nodes]
            below = [ref.digest for ref in refs if ref.is_node]
            plain = iter(self._fetch(below) if below else ())
            level.ready.extend((ref, next(plain) if ref.is_node else b"") for ref in refs)
            if level.ready:
                return True
        return False


def _level(ref: Ref, plain: bytes) -> _NodeLevel:
    return _NodeLevel(ref, plain, references(ref, plain))
