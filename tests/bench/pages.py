"""A snapshot after one changed page of a large file: whether the file's size matters."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from tests.bench import limits_here
from tests.bench.data import PAGE_BYTES, change_page, large_file
from tests.bench.figures import FigureTable, Measurements, short
from tests.bench.goals import Goal, against, goals, milliseconds

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.daemon import MeasuredDaemon

TARGET = Goal(10, " ms")
SPARSE_TIMES = 8
SPARSE_PAGES = 200
CHANGES = 40


def measure(daemon: MeasuredDaemon, mebibytes: int, rounds: int, capture: str) -> FigureTable:
    """Changes of a file full of data, and of a sparse one eight times that size, in turns."""
    daemon.create("pages", interval="1h", verify="off", capture=capture)
    live = daemon.mount("pages")
    source = random.Random(4)
    names = {"full": f"{mebibytes} MiB of data", "sparse": f"{SPARSE_TIMES * mebibytes} MiB sparse"}
    large_file(live / "full", mebibytes)
    with open(live / "sparse", "wb") as file:
        file.truncate(SPARSE_TIMES * mebibytes << 20)
    for _ in range(SPARSE_PAGES):
        change_page(live / "sparse", source)
    whole = Measurements()
    with whole.timed():
        daemon.snapshot("pages")
    asked = {name: Measurements() for name in names}
    inside = {name: Measurements() for name in names}
    again: Measurements = Measurements()
    for _ in range(rounds * CHANGES // 5):
        for name in names:
            _change(daemon, live / name, source, asked[name], inside[name])
        with again.timed():
            daemon.snapshot("pages")
    return _table(daemon, names, (asked, inside), again, whole)


def _change(
    daemon: MeasuredDaemon,
    path: Path,
    source: random.Random,
    asked: Measurements,
    inside: Measurements,
) -> None:
    change_page(path, source)
    started = time.perf_counter()
    taken = daemon.snapshot("pages")
    asked.values.append((time.perf_counter() - started) * 1000)
    inside.values.append(float(taken["capture_ms"]))


def _table(
    daemon: MeasuredDaemon,
    names: dict[str, str],
    samples: tuple[dict[str, Measurements], dict[str, Measurements]],
    again: Measurements,
    whole: Measurements,
) -> FigureTable:
    floor = limits_here.commits(daemon.base)
    source = daemon.status("pages")["capture"]["source"]
    table = goals(f"A snapshot of a file with one changed {PAGE_BYTES // 1024} KiB page ({source})")
    commit = f"bare durable commit: {milliseconds(floor)}"
    for name, text in names.items():
        against(table, f"{text}: request to answer, ms", samples[0][name], TARGET, commit)
        against(table, f"{text}: capture up to its commit, ms", samples[1][name], None)
    against(table, "nothing changed: request to answer, ms", again, None)
    table.notes.append(f"Both files captured for the first time: {short(whole.median)} ms.")
    daemon.unmount("pages")
    return table
