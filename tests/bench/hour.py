"""An hour of snapshots a second under constant change and constant retention, as fast as it goes.

Retention's clock is simulated; what is stored, thinned, encoded and collected is real. Maintenance
runs beside the commits, in a thread of its own as in the daemon, once every simulated minute, which
waits for it.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from diffkeeper.space.maintenance import Maintenance
from diffkeeper.store.store import Store
from diffkeeper.volumes.retention_policy import Moment, Moments, plan
from diffkeeper.volumes.retention_tiers import parse_retention
from tests.bench.figures import FigureTable, Measurements, short
from tests.support import history

if TYPE_CHECKING:
    from pathlib import Path

SECOND_NS = 1_000_000_000
RETENTIONS = {"all for 10 minutes": "10m:all", "then one a minute": "10m:all,2h:1m"}
SHOWN_SECONDS = 600
KEPT_SECONDS = 60
THINNED_SECONDS = 10
CHUNKS = 400  # of the large file, of which a tenth changes every second
MEGABYTE = 1e6


def measure(base: Path, seconds: int) -> FigureTable:
    """The size of the store every ten simulated minutes, and what commits waited for."""
    table = FigureTable(
        f"{seconds} simulated seconds, a snapshot each, {CHUNKS // 10} of {CHUNKS} chunks changed",
        ("simulated minutes", *RETENTIONS),
    )
    runs = [_Run(base / str(number), text) for number, text in enumerate(RETENTIONS.values())]
    for run in runs:
        run.run(seconds)
    for row, minute in enumerate(runs[0].minutes):
        table.add(str(minute), *(f"{run.sizes[row]:.1f} MB" for run in runs))
    for name, run in zip(RETENTIONS, runs, strict=True):
        table.notes.append(
            f"{name}: {run.rate:.0f} times real time; commits p50 / p99 / max"
            f" {run.commits.tail()} ms; the longest wait for maintenance"
            f" {short(run.wait_ms)} ms (target: at most 50); resident"
            f" {run.resident[0]:.0f} to {run.resident[-1]:.0f} MB."
        )
    return table


def _resident() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096 / MEGABYTE


class _Run:
    """One store under one retention."""

    def __init__(self, place: Path, retention: str) -> None:
        self._place = place
        self._tiers = parse_retention(retention)
        self.minutes: list[int] = []
        self.sizes: list[float] = []
        self.commits = Measurements()
        self.rate = self.wait_ms = 0.0
        self.resident: list[float] = []

    def run(self, seconds: int) -> None:
        store = Store.open(str(self._place), reserve_bytes=0)
        maintenance, keeper = Maintenance(store), threading.Thread()
        started = time.monotonic()
        moments = Moments()
        for second, files in enumerate(history.states(seconds, chunks=CHUNKS), 1):
            with self.commits.timed():
                history.commit(store, second, files)
            moments.append(Moment(second, second * SECOND_NS, crash=True))
            if second % THINNED_SECONDS == 0:
                gone = set(plan(moments, self._tiers, second * SECOND_NS))
                history.forget(store, *gone)
                moments.drop(gone)
            if second % KEPT_SECONDS == 0:
                if keeper.is_alive():
                    keeper.join()
                if second % SHOWN_SECONDS == 0:
                    self.minutes.append(second // 60)
                    self.sizes.append(store.used_bytes() / MEGABYTE)
                    self.resident.append(_resident())
                keeper = threading.Thread(target=maintenance.run_all)
                keeper.start()
        if keeper.is_alive():
            keeper.join()
        self.rate = seconds / (time.monotonic() - started)
        self.wait_ms = store.writer.wait_seconds_max * 1000
        store.close()
