"""Number of names and chunks that a tree would have on a disk, each path from its top counted.

Nodes are shared: ten nodes of 64 names each can stand for 64**10 files, and four nodes of 256
references each for a file of 256**4 chunks. So a tree is counted before it is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffkeeper import limits
from diffkeeper.errors import ConflictError
from diffkeeper.format import merkle
from diffkeeper.hashing import SHORT_BYTES
from diffkeeper.store.lru import Lru

if TYPE_CHECKING:
    from diffkeeper.format.node import Get


IMPORT_NAMES_MAX = 100_000_000  # in one snapshot, those of shared nodes each time
IMPORT_CHUNKS_MAX = 1 << 30  # in one snapshot, likewise, without holes: 16 TiB by default


@dataclass(slots=True)
class _Node:
    digest: bytes
    below: list[bytes]
    names: int
    chunks: int

    def add(self, names: int, chunks: int) -> None:
        """Add the counts of a node below; ConflictError beyond a bound."""
        self.names += names
        self.chunks += chunks
        if self.names > IMPORT_NAMES_MAX:
            raise ConflictError(
                f"the directories of the archive hold more than {IMPORT_NAMES_MAX} names"
            )
        if self.chunks > IMPORT_CHUNKS_MAX:
            raise ConflictError(
                f"the files of the archive hold more than {IMPORT_CHUNKS_MAX} chunks"
            )


class TreeSize:
    """Counts below nodes; `get` reads nodes. Caches a fixed number of counts, and counts again what
    it dropped.
    """

    def __init__(self, get: Get) -> None:
        self._get = get
        self._known: Lru[bytes, tuple[int, int]] = Lru(limits.WALK_WINDOW_MAX)

    def check(self, digest: bytes, encoded: bytes) -> None:
        """ConflictError when there are more than IMPORT_NAMES_MAX names below a node, or more than
        IMPORT_CHUNKS_MAX chunks that are no holes.
        """
        node = _node(digest, encoded)
        if node.names or node.chunks or node.below:
            self._count(node)

    def _count(self, top: _Node) -> None:
        stack = [top]
        while stack:
            node = stack[-1]
            if not node.below:
                stack.pop()
                self._remember(node)
                if stack:
                    stack[-1].add(node.names, node.chunks)
                continue
            child = node.below.pop()
            known = self._known.get(child[:SHORT_BYTES])
            if known is None:
                stack.append(_node(child, self._get(child)))
            else:
                node.add(*known)

    def _remember(self, node: _Node) -> None:
        self._known.put(node.digest[:SHORT_BYTES], (node.names, node.chunks))


def _node(digest: bytes, encoded: bytes) -> _Node:
    found = merkle.shape(encoded)
    node = _Node(digest, found.below, 0, 0)
    node.add(found.names, found.chunks)
    return node
