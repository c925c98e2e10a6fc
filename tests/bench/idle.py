"""What the daemon costs when nothing happens, and what loading eBPF costs in memory."""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import TYPE_CHECKING

from tests.bench.figures import FigureTable, short
from tests.bench.goals import Goal, goals, percent
from tests.support.namespaces import in_namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.daemon import MeasuredDaemon

TARGET = Goal(0.2, " % of a core")
# Holds the volume as a container does: a mount namespace where the host does not have it.
CROWD_UNMOUNTED, CROWD_MOUNTED = 300, 130
CROWD_TARGETS = {CROWD_UNMOUNTED: Goal(0.3, " % of a core"), CROWD_MOUNTED: Goal(1, " % of a core")}
# One container that has them all.
HOLDER_OF_ALL = 'for each in "$1"/*; do mount --bind "$each" "$each"; done; exec sleep infinity'
HOLDER = 'mount --bind "$1" "$2"; exec sleep infinity'
LOAD_SECONDS_MAX = 30.0
SETTLE_SECONDS = 12.0  # processes are asked more often while they are new


def measure(daemon: MeasuredDaemon, volumes: int, seconds: float, capture: str) -> FigureTable:
    """CPU of the daemon with no volume, with idle ones, with idle ones that somebody has."""
    loading = _loading(daemon)
    rows = [("no volume", _cost(daemon, seconds))]
    memory = {"no volume": daemon.memory()}
    started = time.monotonic()
    daemon.create("idle1", capture=capture)
    daemon.mount("idle1")
    first = time.monotonic() - started
    for number in range(2, volumes + 1):
        daemon.create(f"idle{number}", capture=capture)
        daemon.mount(f"idle{number}")
    memory[f"{volumes} volumes"] = daemon.memory()
    source = str(daemon.status("idle1")["capture"]["source"])
    for number in range(1, volumes + 1):
        daemon.snapshot(f"idle{number}")
    rows.append((f"{volumes} idle volumes, nobody has them", _cost(daemon, seconds)))
    with _holders(daemon, volumes):
        time.sleep(SETTLE_SECONDS)
        rows.append((f"{volumes} idle volumes, a process has each", _cost(daemon, seconds)))
    table = _table(rows, memory, seconds, source)
    _tell_loading(table, loading)
    table.notes.append(f"The first Mount, programs loaded: {first * 1000:.0f} ms.")
    for number in range(1, volumes + 1):
        daemon.unmount(f"idle{number}")
    return table


def unmounted(daemon: MeasuredDaemon, seconds: float) -> FigureTable:
    """CPU of the daemon with many volumes that nobody has mounted."""
    for number in range(CROWD_UNMOUNTED):
        daemon.create(f"idle{number}")
    return _crowd(daemon, CROWD_UNMOUNTED, seconds, f"{CROWD_UNMOUNTED} volumes, not mounted")


def mounted(daemon: MeasuredDaemon, seconds: float, capture: str) -> FigureTable:
    """The same with many that one container has mounted, watched by this source."""
    _loading(daemon)
    places = []
    for number in range(CROWD_MOUNTED):
        daemon.create(f"idle{number}", capture=capture)
        places.append(daemon.mount(f"idle{number}"))
    for number in range(CROWD_MOUNTED):
        daemon.snapshot(f"idle{number}")
    source = daemon.status("idle0")["capture"]["source"]
    what = f"{CROWD_MOUNTED} volumes, one container has them ({source})"
    holder = subprocess.Popen(in_namespace(HOLDER_OF_ALL, places[0].parent))
    try:
        time.sleep(SETTLE_SECONDS)
        return _crowd(daemon, CROWD_MOUNTED, seconds, what)
    finally:
        holder.terminate()
        holder.wait(10)
        for number in range(CROWD_MOUNTED):
            daemon.unmount(f"idle{number}")


def _crowd(daemon: MeasuredDaemon, volumes: int, seconds: float, what: str) -> FigureTable:
    table = goals(f"Idle, interval 1 s, over {seconds:g} s")
    cost = _cost(daemon, seconds)
    verdict = CROWD_TARGETS[volumes].verdict(100 * cost)
    table.add(f"CPU of the daemon: {what}", percent(cost), verdict, "-")
    return table


def _cost(daemon: MeasuredDaemon, seconds: float) -> float:
    """CPU seconds per second."""
    time.sleep(1)
    used, started = daemon.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    return (daemon.cpu_seconds() - used) / (time.monotonic() - started)


@contextlib.contextmanager
def _holders(daemon: MeasuredDaemon, volumes: int) -> Iterator[None]:
    running = []
    try:
        for number in range(1, volumes + 1):
            place = daemon.base / f"holder{number}"
            place.mkdir()
            source = daemon.call("Path", Name=f"idle{number}")["Mountpoint"]
            running.append(subprocess.Popen(in_namespace(HOLDER, source, place)))
        yield
    finally:
        for process in running:
            process.terminate()
            process.wait(10)


def _table(
    rows: list[tuple[str, float]], memory: dict[str, str], seconds: float, source: str
) -> FigureTable:
    table = goals(f"Idle ({source}), interval 1 s, over {seconds:g} s")
    floor = f"no volume: {percent(rows[0][1])}"
    for what, cost in rows:
        target = TARGET.verdict(100 * cost) if what != "no volume" else "-"
        table.add(f"CPU of the daemon: {what}", percent(cost), target, floor)
    for what, size in memory.items():
        table.add(f"resident size: {what}", size, "-", "-")
    table.notes.append(f"A tick of the clock that CPU is counted in is {_tick(seconds)}.")
    return table


def _loading(daemon: MeasuredDaemon) -> dict[str, str]:
    """What the daemon logs of loading its eBPF programs, which it does at its start."""
    deadline = time.monotonic() + LOAD_SECONDS_MAX
    while time.monotonic() < deadline:
        for line in daemon.log_path.read_text(errors="replace").splitlines():
            if " ebpf_loaded " in line:
                return dict(word.split("=", 1) for word in line.split() if "=" in word)
            if " ebpf_unavailable " in line:
                return {}
        time.sleep(0.05)
    return {}


def _tell_loading(table: FigureTable, loading: dict[str, str]) -> None:
    if not loading:
        table.notes.append("The daemon has loaded no eBPF programs; its log says why.")
        return
    for key, what in (("before", "before bcc"), ("compiled", "compiled"), ("after", "given back")):
        size = int(loading[f"resident_{key}_bytes"])
        table.add(f"resident size, {what}", f"{size / 1e6:.0f} MB", "-", "-")
    table.add("compile and attach", f"{float(loading['seconds']):.2f} s", "-", "-")
    size = int(loading["headers_bytes"])
    table.add("kernel headers to compile with", f"{size / 1e6:.1f} MB", "-", "-")


def _tick(seconds: float) -> str:
    return f"{short(1 / seconds)} % of a core here"
