"""Mount with the live directory present: whether it depends on how much is in there."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

from tests.bench.data import empty_files
from tests.bench.figures import FigureTable, Measurements, ratio, short

if TYPE_CHECKING:
    from tests.bench.daemon import MeasuredDaemon

TARGET_MS = 50.0


def measure(daemon: MeasuredDaemon, files: int, calls: int, cycles: int) -> FigureTable:
    """p50 and p99 of `calls` Mounts of a volume with `files` files, and `cycles` whole cycles."""
    daemon.create("mounts")
    live = daemon.mount("mounts", "kept")
    empty_files(live, files)
    daemon.snapshot("mounts")
    mounts, unmounts = _calls(daemon, calls)
    whole, last, busy = _cycles(daemon, cycles)
    floor = _round_trips(daemon, calls)
    bind = _binds(daemon, str(live), min(calls, 50))
    limit = short(floor.median)
    table = FigureTable(
        f"Mount with live present, {files:,} files",
        ("what", "p50 / p99 / max ms", "p50 over an empty call"),
    )
    rows = (
        ("Mount, others have it mounted", mounts),
        ("Mount, nobody has it mounted", whole),
        ("Mount, while the comparison after such a one runs", busy),
        ("Unmount, others have it mounted", unmounts),
        ("Unmount of the last one: capture and verification", last),
        (f"limit: an empty call on the same socket, {limit} ms", floor),
        ("limit: mount(8) and umount(8), as processes", bind),
    )
    for what, sample in rows:
        table.add(what, sample.tail(), ratio(sample.median, floor.median))
    verdict = "reached" if mounts.percentile(99) < TARGET_MS else "MISSED"
    table.notes.append(f"Target: p99 of Mount below {TARGET_MS:g} ms: {verdict}, n={calls}.")
    daemon.unmount("mounts", "kept")
    return table


def _calls(daemon: MeasuredDaemon, calls: int) -> tuple[Measurements, Measurements]:
    mounts, unmounts = Measurements(), Measurements()
    for number in range(calls):
        with mounts.timed():
            daemon.mount("mounts", f"m{number}")
        with unmounts.timed():
            daemon.unmount("mounts", f"m{number}")
    return mounts, unmounts


def _cycles(daemon: MeasuredDaemon, cycles: int) -> tuple[Measurements, Measurements, Measurements]:
    """Whole cycles; the comparison with the newest snapshot runs behind the first answer."""
    whole, last, busy = Measurements(), Measurements(), Measurements()
    for number in range(cycles):
        with last.timed():
            daemon.unmount("mounts", "kept")
        while daemon.status("mounts")["mounts"]:
            time.sleep(0.05)
        with whole.timed():
            daemon.mount("mounts", "kept")
        for again in range(10):
            with busy.timed():
                daemon.mount("mounts", f"c{number}-{again}")
            daemon.unmount("mounts", f"c{number}-{again}")
    daemon.snapshot("mounts")
    return whole, last, busy


def _round_trips(daemon: MeasuredDaemon, calls: int) -> Measurements:
    sample = Measurements()
    for _ in range(calls):
        with sample.timed():
            daemon.call("Capabilities")
    return sample


def _binds(daemon: MeasuredDaemon, source: str, calls: int) -> Measurements:
    target = daemon.base / "bind"
    target.mkdir()
    sample = Measurements()
    for _ in range(calls):
        with sample.timed():
            subprocess.run(["mount", "--bind", source, str(target)], check=True)
            subprocess.run(["umount", str(target)], check=True)
    return sample
