"""Decoded parts of packs in memory, least recently used first to go. Packs never change."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Bounded(Generic[K, V]):
    """Values of which each has a weight, together at most `weight_max`; any thread may call."""

    def __init__(self, weight_max: int) -> None:
        self._weight_max = weight_max
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """The value, or None when it is not here."""
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            self._values.move_to_end(key)
            return found[0]

    def put(self, key: K, value: V, weight: int) -> None:
        """Keep a value; others go until all fit."""
        with self._lock:
            if key in self._values:
                return
            self._values[key] = value, weight
            self._weight += weight
            while self._weight > self._weight_max and self._values:
                self._weight -= self._values.popitem(last=False)[1][1]
