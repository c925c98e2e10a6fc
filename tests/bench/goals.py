"""Tables that hold each figure against a target and against a limit taken in the same run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench.figures import FigureTable, short

if TYPE_CHECKING:
    from tests.bench.figures import Measurements

HEADERS = ("what", "figure", "target", "limit in the same run")


@dataclass(frozen=True)
class Goal:
    """What a figure must not exceed; with `least`, what it must reach."""

    value: float
    unit: str
    least: bool = False

    def verdict(self, figure: float) -> str:
        """The target, and whether the figure is within it."""
        good = figure >= self.value if self.least else figure <= self.value
        side = "at least" if self.least else "at most"
        return f"{side} {self.value:g}{self.unit}: {'reached' if good else 'MISSED'}"


def goals(title: str) -> FigureTable:
    """An empty table with these columns."""
    return FigureTable(title, HEADERS)


def against(
    table: FigureTable, what: str, sample: Measurements, goal: Goal | None, limit: str = ""
) -> None:
    """A row for a sample whose median is held against the goal."""
    verdict = goal.verdict(sample.median) if goal is not None else "-"
    table.add(what, sample.spread(), verdict, limit or "-")


def milliseconds(sample: Measurements) -> str:
    """Median and spread with their unit, for limits and notes."""
    return f"{sample.spread()} ms"


def percent(value: float) -> str:
    """A fraction as per cent."""
    return f"{short(100 * value)} %"
