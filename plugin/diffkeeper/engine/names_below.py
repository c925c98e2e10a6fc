"""How many names a tree of directories would have on a disk, each way to a name counted.

Nodes are shared: ten nodes of 64 names each can stand for 64**10 files. So a tree is counted
before anything is made of it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffkeeper import limits
from diffkeeper.errors import ConflictError
from diffkeeper.format import merkle

if TYPE_CHECKING:
    from diffkeeper.format.node import Get

_KEY_BYTES = 16  # of a digest: no two objects share as many by chance


@dataclass(slots=True)
class _Node:
    digest: bytes
    below: list[bytes]
    names: int


class NamesBelow:
    """Counts below one node after the other; `get` gives nodes. Remembers a fixed number of counts,
    and counts again what it forgot.
    """

    def __init__(self, get: Get) -> None:
        self._get = get
        self._known: OrderedDict[bytes, int] = OrderedDict()

    def check(self, digest: bytes, encoded: bytes) -> None:
        """ConflictError when there are more than IMPORT_NAMES_MAX names below a node."""
        node = _node(digest, encoded)
        if node.names or node.below:
            self._count(node)

    def _count(self, top: _Node) -> None:
        stack = [top]
        while stack:
            node = stack[-1]
            if node.names > limits.IMPORT_NAMES_MAX:
                raise ConflictError(
                    f"the directories of the archive hold more than {limits.IMPORT_NAMES_MAX} names"
                )
            if not node.below:
                stack.pop()
                self._remember(node)
                if stack:
                    stack[-1].names += node.names
                continue
            child = node.below.pop()
            known = self._known.get(child[:_KEY_BYTES])
            if known is None:
                stack.append(_node(child, self._get(child)))
            else:
                node.names += known

    def _remember(self, node: _Node) -> None:
        self._known[node.digest[:_KEY_BYTES]] = node.names
        if len(self._known) > limits.WALK_WINDOW_MAX:
            self._known.popitem(last=False)


def _node(digest: bytes, encoded: bytes) -> _Node:
    refs = merkle.certain(encoded)
    below = [ref.digest for ref in refs if ref.role is merkle.Role.DIRECTORY]
    return _Node(digest, below, len(merkle.entries_of(encoded)))
