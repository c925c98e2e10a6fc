"""Samples, their medians and spread, and tables of them. Every printed duration is in ms."""

from __future__ import annotations

import statistics
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass
class Measurements:
    """Measurements of one thing, in ms."""

    values: list[float] = field(default_factory=list)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the duration of the block."""
        started = time.perf_counter()
        yield
        self.values.append((time.perf_counter() - started) * 1000)

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def percentile(self, percent: float) -> float:
        """The smallest measurement that `percent` of all do not exceed."""
        ordered = sorted(self.values)
        rank = -(-len(ordered) * percent // 100)
        return ordered[max(0, int(rank) - 1)]

    def spread(self) -> str:
        """`median (min to max, n)`."""
        low, high = min(self.values), max(self.values)
        return f"{short(self.median)} ({short(low)} to {short(high)}, n={len(self.values)})"

    def tail(self) -> str:
        """`p50 / p99 / max`."""
        worst = short(max(self.values))
        return f"{short(self.median)} / {short(self.percentile(99))} / {worst}"


def short(value: float) -> str:
    """Three significant digits, and no exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


@dataclass
class FigureTable:
    """Rows under a title; printed as Markdown, and kept for `--json`."""

    title: str
    headers: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        """Append one row."""
        assert len(cells) == len(self.headers)
        self.rows.append(cells)

    def show(self) -> None:
        """Print it."""
        widths = [max(map(len, column)) for column in zip(self.headers, *self.rows, strict=True)]
        print(f"\n### {self.title}\n")
        for row in (self.headers, ["-" * width for width in widths], *self.rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print(f"| {' | '.join(cells)} |")
        for note in self.notes:
            print(f"\n{note}")
        print(flush=True)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        rows = [dict(zip(self.headers, row, strict=True)) for row in self.rows]
        return {"title": self.title, "rows": rows, "notes": self.notes}


def ratio(ours: float, theirs: float) -> str:
    """How many times `theirs` fits into `ours`."""
    return f"{ours / theirs:.2f}" if theirs else "-"
