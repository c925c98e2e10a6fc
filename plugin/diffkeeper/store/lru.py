"""A least-recently-used cache."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Lru(Generic[K, V]):
    """At most `entries_max` values, each with a weight, together at most `weight_max`.

    Any thread may call. Values never change: a key that exists is not replaced.
    """

    def __init__(self, entries_max: int = sys.maxsize, weight_max: int = sys.maxsize) -> None:
        self._entries_max, self._weight_max = entries_max, weight_max
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """The value, or None if it is not cached."""
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            self._values.move_to_end(key)
            return found[0]

    def put(self, key: K, value: V, weight: int = 1) -> None:
        """Add a value; others are dropped until all fit."""
        with self._lock:
            if key in self._values:
                return
            self._values[key] = value, weight
            self._weight += weight
            while self._weight > self._weight_max or len(self._values) > self._entries_max:
                self._weight -= self._values.popitem(last=False)[1][1]
