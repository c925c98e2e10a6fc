"""Snapshots of PostgreSQL under pgbench: how long it is frozen, and what it loses.

Two containers of a real Docker Engine, the one on a volume of the `local` driver, the other on one
of ours, which a daemon of this run serves: so its CPU time and memory can be read.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.bench.ages import Ages
from tests.bench.containers import CLIENTS, MeasuredPostgres, image
from tests.bench.figures import FigureTable, Measurements, ratio, short
from tests.bench.goals import Goal, goals

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.daemon import MeasuredDaemon

# Interval to the least median of TPS over the local driver's.
RATIOS = {"1s": 0.98, "250ms": 0.97}
FREEZE_P50 = Goal(1.5, " ms")
FREEZE_P99 = Goal(5, " ms")
# The first seconds belong to the tables that were just made, and to the first comparison.
WARM_SECONDS = 5


@dataclass
class Run:
    """What was gathered while the volume's server was under load."""

    cpu: float = 0.0
    elapsed: float = 0.0
    spans: list[tuple[float, float]] = field(default_factory=list)
    capture_cpu: float = 0.0


def measure(
    daemon: MeasuredDaemon, interval: str, pairs: int, seconds: int, scale: int, capture: str
) -> FigureTable:
    """`pairs` runs of pgbench on both volumes, in turns."""
    options = {"interval": interval, "verify": "off", "capture": capture}
    name = f"{daemon.name}-{interval}"
    ours = MeasuredPostgres(name, daemon.name, options)
    plain = MeasuredPostgres(f"{name}-local", "local")
    tag = image()
    try:
        for server in (ours, plain):
            server.start(tag, scale)
            server.load(min(WARM_SECONDS, seconds))
            server.tps.clear()
        before = daemon.snapshots(name)[-1]["seq"]
        with Ages(daemon.log_path, name) as ages:
            run = _pairs(daemon, ours, plain, pairs, seconds)
        status = daemon.status(name)["capture"]
        taken = [s for s in daemon.snapshots(name) if s["seq"] > before]
        age = ages.sample(taken, run.spans)
        floor = _floor(ours.cgroup())
    finally:
        for server in (ours, plain):
            server.remove()
    table = _table(interval, (ours, plain), taken, floor, run, str(status["source"]))
    _tell_age(table, age, interval, str(status["effective_interval"]))
    table.notes.append(f"The daemon afterwards: {daemon.memory()}.")
    return table


def _pairs(
    daemon: MeasuredDaemon,
    ours: MeasuredPostgres,
    plain: MeasuredPostgres,
    pairs: int,
    seconds: int,
) -> Run:
    run = Run()
    for number in range(pairs):
        # Which one goes first changes, so that neither always meets a warmer machine.
        for server in (ours, plain) if number % 2 == 0 else (plain, ours):
            server.checkpoint()
            used, started = daemon.cpu_seconds(), time.time()
            captured = daemon.status(ours.volume)["capture"]["cpu_seconds"]
            server.load(seconds)
            if server is ours:
                ended = time.time()
                run.cpu += daemon.cpu_seconds() - used
                run.capture_cpu += daemon.status(ours.volume)["capture"]["cpu_seconds"] - captured
                run.elapsed += ended - started
                # Starting pgbench is no load yet.
                run.spans.append((ended - seconds + 1, ended))
    return run


def _floor(cgroup: Path) -> Measurements:
    """Freezing and thawing the idle server's cgroup by hand: what no freeze can do without."""
    v1 = cgroup / "freezer.state"
    sample = Measurements()
    for _ in range(100):
        with sample.timed():
            if v1.exists():
                v1.write_text("FROZEN")
                while v1.read_text() != "FROZEN\n":
                    pass
                v1.write_text("THAWED")
            else:
                (cgroup / "cgroup.freeze").write_text("1")
                while "frozen 1" not in (cgroup / "cgroup.events").read_text():
                    pass
                (cgroup / "cgroup.freeze").write_text("0")
    return sample


def _table(
    interval: str,
    servers: tuple[MeasuredPostgres, MeasuredPostgres],
    taken: list[dict[str, object]],
    floor: Measurements,
    run: Run,
    source: str,
) -> FigureTable:
    ours, plain = servers
    table = goals(f"PostgreSQL, pgbench -c {CLIENTS}, snapshots every {interval} ({source})")
    freeze, capture = (
        Measurements(_numbers(taken, "freeze_ms")),
        Measurements(_numbers(taken, "capture_ms")),
    )
    ratios = Measurements([a / b for a, b in zip(ours.tps, plain.tps, strict=True)])
    hand = f"by hand, idle: {floor.tail()}"
    if freeze.values:
        table.add("freeze to thaw, p50 ms", short(freeze.median), _p50(freeze), hand)
        table.add("freeze to thaw, p99 ms", short(freeze.percentile(99)), _p99(freeze), hand)
        table.add("freeze to thaw, max ms", short(max(freeze.values)), "-", hand)
        table.notes.append(
            f"The median freeze is {ratio(freeze.median, floor.median)} of one by hand."
        )
    if capture.values:
        table.add("capture, p50 / p99 / max ms", capture.tail(), "-", "-")
    fuzzy = sum(each["consistency"] == "fuzzy" for each in taken)
    table.add("snapshots, of them fuzzy", f"{len(taken)}, {fuzzy}", "-", "-")
    stored = sum(_numbers(taken, "stored_bytes")) / max(1, len(taken)) / 1e6
    table.add("stored per snapshot, MB", short(stored), "-", "-")
    cpu, inside = run.cpu / run.elapsed, run.capture_cpu / run.elapsed
    table.add("CPU seconds of the daemon per second", f"{cpu:.3f}", "-", "-")
    table.add("of these in captures", f"{inside:.3f}", "-", "budget of captures: 0.05")
    local = f"local: {Measurements(plain.tps).spread()}"
    table.add("TPS on the volume", Measurements(ours.tps).spread(), "-", local)
    goal = Goal(RATIOS.get(interval, 0.97), "", least=True)
    table.add("over the local driver, by pairs", _ratios(ratios), goal.verdict(ratios.median), "1")
    table.notes.append("One pair of ten seconds resolves about 10 %: for less, take more pairs.")
    return table


def _p50(freeze: Measurements) -> str:
    return FREEZE_P50.verdict(freeze.median)


def _p99(freeze: Measurements) -> str:
    return FREEZE_P99.verdict(freeze.percentile(99))


def _ratios(ratios: Measurements) -> str:
    """With one digit more than other figures: it is the third that counts here."""
    low, high = min(ratios.values), max(ratios.values)
    middle = f"{ratios.percentile(25):.3f} and {ratios.percentile(75):.3f}"
    return f"{ratios.median:.3f} ({low:.3f} to {high:.3f}, quartiles {middle})"


def _tell_age(table: FigureTable, age: Measurements, interval: str, effective: str) -> None:
    if age.values:
        table.add(
            "age of the newest snapshot, p50 / p99 / max ms",
            age.tail(),
            "-",
            f"interval {interval}, at the end {effective}",
        )


def _numbers(taken: list[dict[str, object]], key: str) -> list[float]:
    return [float(str(each[key])) for each in taken if key != "freeze_ms" or each[key]]
