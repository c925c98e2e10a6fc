"""What the eBPF programs cost each write(), and what watching many files costs.

The programs are loaded by this process, beside no daemon of ours: another one's would be in the
figures too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from diffkeeper import limits
from diffkeeper.sources.ebpf.program import Program
from tests.bench.figures import FigureTable, Measurements, short
from tests.bench.goals import Goal, against, goals

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = Path(__file__).parent / "write_cost.c"
TARGET = Goal(500, " ns")
CHUNK_BITS = limits.CHUNK_BYTES_DEFAULT.bit_length() - 1
SIZES = {"8 KiB": 8192, "64 bytes": 64}
COUNT = 50_000
TURNS = 8
STATES = ("not attached", "attached, file not watched", "attached, file watched")


def missing() -> str:
    """Why this cannot be measured here, or nothing."""
    return "" if shutil.which("gcc") else "needs gcc, so that the loop itself costs little"


def measure(base: Path, rounds: int, files: int) -> list[FigureTable]:
    """Interleaved rounds with and without the programs; then the map of watched files."""
    helper = base / "write_cost"
    subprocess.run(["gcc", "-O2", "-o", str(helper), str(SOURCE)], check=True)
    paths = {name: base / f"{number}" for number, name in enumerate(STATES)}
    for path in paths.values():
        path.write_bytes(bytes(1 << 20))
    costs = {state: {size: Measurements() for size in SIZES} for state in STATES}
    rates = {"watch": Measurements(), "settle": Measurements(), "end": Measurements()}

    def write(state: str) -> None:
        for size, count in SIZES.items():
            command = [str(helper), str(paths[state]), str(count), str(COUNT)]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            costs[state][size].values.append(float(told))

    loads = Measurements()
    for _ in range(rounds):
        for _ in range(TURNS):
            write(STATES[0])
        with loads.timed():
            program = Program.load()
        try:
            _attached(program, paths[STATES[2]], write)
            _register(program, files, rates)
        finally:
            program.close()
    return [_write_table(costs, rounds), _watch_table(rates, loads, files)]


def _attached(program: Program, watched: Path, write: Callable[[str], None]) -> None:
    status = watched.stat()
    number = program.open_volume(status.st_dev)
    program.watch(number, CHUNK_BITS, [status.st_ino], held=True)
    for _ in range(TURNS):
        write(STATES[1])
        write(STATES[2])
        if not program.drain(number).done:
            raise SystemExit("the programs did not see the writes that were measured")
    program.close_volume(number, forget=True)


def _register(program: Program, files: int, rates: dict[str, Measurements]) -> None:
    """What the first look at a volume asks of the kernel's map."""
    number = program.open_volume(os.stat("/").st_dev)
    # Numbers that no file has: nothing else writes to them.
    inodes = range(1 << 40, (1 << 40) + files)
    for name, held in (("watch", False), ("settle", True)):
        with rates[name].timed():
            program.watch(number, CHUNK_BITS, inodes, held=held)
    with rates["end"].timed():
        program.close_volume(number, forget=True)


def _write_table(costs: dict[str, dict[str, Measurements]], rounds: int) -> FigureTable:
    table = goals("Cost of a write() to a hot page, ns of CPU")
    for size in SIZES:
        plain = costs[STATES[0]][size]
        against(table, f"pwrite of {size}, {STATES[0]}", plain, None)
        for state in STATES[1:]:
            sample = costs[state][size]
            more = sample.median - plain.median
            least = min(sample.values) - min(plain.values)
            figure = f"{more:+.0f}, of the minima {least:+.0f}: {sample.spread()}"
            table.add(
                f"pwrite of {size}, {state}",
                figure,
                TARGET.verdict(more),
                f"not attached: {short(plain.median)}",
            )
    table.notes.append(
        f"{rounds} times loaded and unloaded, each time {TURNS} loops of {COUNT:,} writes in turns."
    )
    return table


def _watch_table(rates: dict[str, Measurements], loads: Measurements, files: int) -> FigureTable:
    table = goals(f"Registering {files:,} inodes with the eBPF programs, ms")
    words = {
        "watch": "watch them, before they are read",
        "settle": "settle them, after",
        "end": "take them out when the volume ends",
    }
    for name, what in words.items():
        each = f"{short(rates[name].median * 1e6 / files)} ns each"
        against(table, what, rates[name], None, each)
    against(table, "compile and attach the programs", loads, None)
    return table


def run(rounds: int, files: int) -> list[FigureTable]:
    """Measure in a folder of its own."""
    base = Path(tempfile.mkdtemp(prefix="dk-bench-writes-", dir="/var/lib"))
    started = time.monotonic()
    try:
        tables = measure(base, rounds, files)
    finally:
        shutil.rmtree(base)
    tables[-1].notes.append(f"{time.monotonic() - started:.0f} s for both tables.")
    return tables
