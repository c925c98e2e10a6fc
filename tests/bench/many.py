"""A volume of many files: one changed, all compared after a mount, the first and last capture."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from diffkeeper.fsio.inode import mmap_dirty_horizon_ns
from tests.bench import limits_here
from tests.bench.data import empty_files, place
from tests.bench.figures import FigureTable, Measurements, short
from tests.bench.goals import Goal, against, goals, milliseconds

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.daemon import MeasuredDaemon

TARGET = Goal(20, " ms")
CHANGES = 40
UNMOUNT_SECONDS_MAX = 300.0


def measure(daemon: MeasuredDaemon, files: int, rounds: int, capture: str) -> FigureTable:
    """Captures of a volume with `files` files of a few bytes."""
    live = _new(daemon, "many", capture)
    empty_files(live, files)
    written = time.monotonic()
    table = goals(f"A volume of {files:,} files, one of them changed ({_source(daemon)})")
    first, first_cpu = _timed(daemon)
    one, inside = _changes(daemon, live, files, rounds * CHANGES // 5)
    floor = limits_here.commits(daemon.base)
    walk = limits_here.walk(live)
    bare = f"bare durable commit: {milliseconds(floor)}"
    stat = f"an lstat of each: {milliseconds(walk)}"
    against(table, "one changed: request to answer, ms", one, TARGET, bare)
    against(table, "one changed: capture up to its commit, ms", inside, None)
    against(table, f"first capture of all, ms ({first_cpu:.2f} s of CPU)", first, None, stat)
    # A mapped page may be stored to for that long without a trace: younger files are read again.
    time.sleep(max(0.0, written + mmap_dirty_horizon_ns() / 1e9 + 1 - time.monotonic()))
    daemon.unmount("many")
    daemon.mount("many")
    young, young_cpu = _timed(daemon)
    against(table, f"after a mount, read again, ms ({young_cpu:.2f} s of CPU)", young, None, stat)
    last = _last(daemon, "many")
    daemon.mount("many")
    held, held_cpu = _timed(daemon)
    what = f"after a mount, signatures hold, ms ({held_cpu:.2f} s of CPU)"
    against(table, what, held, None, stat)
    against(table, "last Unmount with its verification, captured before, ms", last, None)
    _never_captured(daemon, table, files, capture)
    daemon.unmount("many")
    return table


def _new(daemon: MeasuredDaemon, volume: str, capture: str) -> Path:
    daemon.create(volume, interval="1h", capture=capture)
    live = daemon.mount(volume)
    # The capture that every mount begins with is over, and the next one is an hour away.
    while not daemon.snapshots(volume):
        time.sleep(0.05)
    return live


def _source(daemon: MeasuredDaemon) -> str:
    return str(daemon.status("many")["capture"]["source"])


def _timed(daemon: MeasuredDaemon) -> tuple[Measurements, float]:
    """One snapshot: how long it took, and CPU seconds."""
    sample, used = Measurements(), daemon.cpu_seconds()
    with sample.timed():
        daemon.snapshot("many")
    return sample, daemon.cpu_seconds() - used


def _changes(
    daemon: MeasuredDaemon, live: Path, files: int, count: int
) -> tuple[Measurements, Measurements]:
    source = random.Random(5)
    asked, inside = Measurements(), Measurements()
    for _ in range(count):
        with open(place(live, source.randrange(files)), "ab") as file:
            file.write(source.randbytes(100))
        with asked.timed():
            taken = daemon.snapshot("many")
        inside.values.append(float(taken["capture_ms"]))
    return asked, inside


def _last(daemon: MeasuredDaemon, volume: str) -> Measurements:
    """The last Unmount until its work is over, which may be behind the answer."""
    sample = Measurements()
    deadline = time.monotonic() + UNMOUNT_SECONDS_MAX
    with sample.timed():
        daemon.unmount(volume)
        while daemon.status(volume)["mounts"]:
            if time.monotonic() > deadline:
                raise SystemExit(f"{volume} is still being unmounted")
            time.sleep(0.02)
    return sample


def _never_captured(daemon: MeasuredDaemon, table: FigureTable, files: int, capture: str) -> None:
    live = _new(daemon, "fresh", capture)
    empty_files(live, files)
    used = daemon.cpu_seconds()
    sample = _last(daemon, "fresh")
    cpu = daemon.cpu_seconds() - used
    what = f"last Unmount, never captured before, ms ({cpu:.2f} s of CPU)"
    each = f"{short(sample.median * 1000 / files)} us a file"
    against(table, what, sample, None, each)
