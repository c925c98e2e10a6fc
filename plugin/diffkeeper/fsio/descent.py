"""Opens directories of one tree, at any depth, each from the nearest one that is still open.

From the root the kernel would walk the whole path each time, so that the cost of a chain of nested
directories would grow with the square of its length.
"""

from __future__ import annotations

import itertools
import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol, Self

from diffkeeper.fsio import linux

if TYPE_CHECKING:
    from collections.abc import Iterator

DESCENT_STEP = 64  # depth between two directories that stay open
DESCENT_OPEN_MAX = 32


class Node(Protocol):
    """A directory by its inode number and place; the root has no parent."""

    @property
    def inode(self) -> int:
        """Its inode number."""

    @property
    def parent(self) -> Self | None:
        """The directory that it is in."""

    @property
    def name(self) -> bytes:
        """Its name there."""


class Descent:
    """Descriptors of a few directories below `root`. Not thread-safe; `close` closes them.

    If a directory moves while it is open here, it and all below it are found at its new place.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._open: OrderedDict[Node, int] = OrderedDict()

    def close(self) -> None:
        """Close all descriptors; the object can still be used."""
        while self._open:
            os.close(self._open.popitem()[1])

    def open(self, node: Node) -> int:
        """A new descriptor of what is at its place; the caller closes it.

        Only a directory with the node's inode number stays open for later calls. Raises OSError as
        `linux.open_directory_beneath` does.
        """
        base, names = self._from(node)
        if len(names) > DESCENT_STEP:
            # The next call is likely to be near: its path is walked only once.
            above = linux.open_directory_beneath(base, names[:-DESCENT_STEP])
            self._keep(self._above(node, DESCENT_STEP), above)
            base, names = self._from(node)
        found = linux.open_directory_beneath(base, names)
        if node.parent is not None and node not in self._open:
            self._keep(node, os.dup(found))
        return found

    def _from(self, node: Node) -> tuple[int, list[bytes]]:
        """The nearest descriptor at or above, and the names from there."""
        names: list[bytes] = []
        for at in _upward(node):
            if at in self._open:
                self._open.move_to_end(at)
                return self._open[at], names[::-1]
            if at.parent is not None:
                names.append(at.name)
        return self._root, names[::-1]

    @staticmethod
    def _above(node: Node, steps: int) -> Node:
        """So many steps up; there are more names than steps."""
        return next(itertools.islice(_upward(node), steps, None))

    def _keep(self, node: Node, fd: int) -> None:
        """Keep it open for later calls, unless something else is at its place."""
        if os.fstat(fd).st_ino != node.inode:
            os.close(fd)
            return
        self._open[node] = fd
        if len(self._open) > DESCENT_OPEN_MAX:
            os.close(self._open.popitem(last=False)[1])


def _upward(node: Node) -> Iterator[Node]:
    at: Node | None = node
    while at is not None:
        yield at
        at = at.parent
