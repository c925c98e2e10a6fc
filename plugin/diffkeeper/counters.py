"""Process-wide counters and histograms as plain numbers; `api.metrics` renders them.

Lower layers count here without knowing the readers. All functions may be called from any thread.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
Labels = tuple[tuple[str, str], ...]


@dataclass
class Histogram:
    """Counts per bucket (the last one is +Inf), and the sum of all observed values."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(SECONDS_BUCKETS) + 1))
    total: float = 0.0


_lock = threading.Lock()
_counts: dict[tuple[str, Labels], float] = {}
_histograms: dict[tuple[str, Labels], Histogram] = {}


def add(name: str, amount: float = 1, **labels: str) -> None:
    """Add to the counter `name` with these labels."""
    key = (name, tuple(sorted(labels.items())))
    with _lock:
        _counts[key] = _counts.get(key, 0) + amount


def observe(name: str, seconds: float, **labels: str) -> None:
    """Record one duration in the histogram `name`."""
    key = (name, tuple(sorted(labels.items())))
    with _lock:
        histogram = _histograms.setdefault(key, Histogram())
        histogram.buckets[bisect_left(SECONDS_BUCKETS, seconds)] += 1
        histogram.total += seconds


def counts() -> Mapping[tuple[str, Labels], float]:
    """A copy of all counters: (name, labels) to value."""
    with _lock:
        return dict(_counts)


def histograms() -> Mapping[tuple[str, Labels], Histogram]:
    """A copy of all histograms: (name, labels) to buckets and sum."""
    with _lock:
        return {k: Histogram(list(h.buckets), h.total) for k, h in _histograms.items()}


def forget(volume: str) -> None:
    """Drop every series labelled with this volume, once it is removed."""
    with _lock:
        for key in [k for k in _counts if ("volume", volume) in k[1]]:
            del _counts[key]
        for key in [k for k in _histograms if ("volume", volume) in k[1]]:
            del _histograms[key]
