"""What the daemon costs when nothing happens, and what loading eBPF costs in memory."""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import TYPE_CHECKING

from diffkeeper.capture import tracing
from tests.bench.data import size_of
from tests.bench.figures import Table, short
from tests.bench.goals import Goal, goals, percent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.daemon import Daemon

TARGET = Goal(0.2, " % of a core")
# Holds the volume as a container does: a mount namespace where the host does not have it.
HOLDER = 'mount --bind "$1" "$2"; exec sleep infinity'
SETTLE_SECONDS = 12.0  # processes are asked more often while they are new


def measure(daemon: Daemon, volumes: int, seconds: float, capture: str) -> Table:
    """CPU of the daemon with no volume, with idle ones, with idle ones that somebody has."""
    rows = [("no volume", _cost(daemon, seconds))]
    before = daemon.memory()
    daemon.create("idle0", capture="inotify")
    daemon.mount("idle0")
    memory = {"no volume": before, "a volume with inotify": daemon.memory()}
    started = time.monotonic()
    daemon.create("idle1", capture=capture)
    daemon.mount("idle1")
    first = time.monotonic() - started
    memory["the first volume with eBPF"] = daemon.memory()
    for number in range(2, volumes + 1):
        daemon.create(f"idle{number}", capture=capture)
        daemon.mount(f"idle{number}")
    daemon.unmount("idle0")
    memory[f"{volumes} volumes with eBPF"] = daemon.memory()
    source = str(daemon.status("idle1")["capture"]["source"])
    for number in range(1, volumes + 1):
        daemon.snapshot(f"idle{number}")
    rows.append((f"{volumes} idle volumes, nobody has them", _cost(daemon, seconds)))
    with _holders(daemon, volumes):
        time.sleep(SETTLE_SECONDS)
        rows.append((f"{volumes} idle volumes, a process has each", _cost(daemon, seconds)))
    table = _table(rows, memory, seconds, source)
    table.notes.append(f"The first Mount with eBPF, programs compiled: {first:.2f} s.")
    for number in range(1, volumes + 1):
        daemon.unmount(f"idle{number}")
    return table


def _cost(daemon: Daemon, seconds: float) -> float:
    """CPU seconds per second."""
    time.sleep(1)
    used, started = daemon.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    return (daemon.cpu_seconds() - used) / (time.monotonic() - started)


@contextlib.contextmanager
def _holders(daemon: Daemon, volumes: int) -> Iterator[None]:
    running = []
    try:
        for number in range(1, volumes + 1):
            place = daemon.base / f"holder{number}"
            place.mkdir()
            source = daemon.call("Path", Name=f"idle{number}")["Mountpoint"]
            command = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", HOLDER]
            running.append(subprocess.Popen([*command, "sh", source, str(place)]))
        yield
    finally:
        for process in running:
            process.terminate()
            process.wait(10)


def _table(
    rows: list[tuple[str, float]], memory: dict[str, str], seconds: float, source: str
) -> Table:
    table = goals(f"Idle ({source}), interval 1 s, over {seconds:g} s")
    floor = f"no volume: {percent(rows[0][1])}"
    for what, cost in rows:
        target = TARGET.verdict(100 * cost) if what != "no volume" else "-"
        table.add(f"CPU of the daemon: {what}", percent(cost), target, floor)
    for what, size in memory.items():
        table.add(f"resident size: {what}", size, "-", "-")
    files, size_bytes = size_of(tracing.header_sets()[0])
    text = f"{size_bytes / 1e6:.1f} MB, {files} files"
    table.add("kernel headers to compile with", text, "-", "-")
    table.notes.append(f"A tick of the clock that CPU is counted in is {_tick(seconds)}.")
    return table


def _tick(seconds: float) -> str:
    return f"{short(1 / seconds)} % of a core here"
