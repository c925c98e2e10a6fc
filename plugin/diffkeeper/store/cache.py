"""Verified nodes in memory, least recently used first to go."""

from __future__ import annotations

import threading
from collections import OrderedDict


class NodeCache:
    """At most `entries_max` nodes and `bytes_max` bytes; any thread may call."""

    def __init__(self, entries_max: int, bytes_max: int) -> None:
        self._entries_max, self._bytes_max = entries_max, bytes_max
        self._nodes: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, digest: bytes) -> bytes | None:
        """The node, or None when it is not here."""
        with self._lock:
            node = self._nodes.get(digest)
            if node is not None:
                self._nodes.move_to_end(digest)
            return node

    def put(self, digest: bytes, node: bytes) -> None:
        """Keep a node whose digest was checked."""
        with self._lock:
            if digest in self._nodes:
                return
            self._nodes[digest] = node
            self._bytes += len(node)
            while len(self._nodes) > self._entries_max or self._bytes > self._bytes_max:
                self._bytes -= len(self._nodes.popitem(last=False)[1])
