"""Captures of many small files and of one large file, beside backups of the same data."""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blake3 import blake3

from diffkeeper.fsio.inode import mmap_dirty_horizon_ns
from tests.bench import peers
from tests.bench.data import change_page, large_file, place, small_files
from tests.bench.figures import FigureTable, Measurements, ratio, short

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.bench.daemon import MeasuredDaemon

STEPS = ("full", "nothing changed", "one changed")
SEGMENT_BYTES = 1 << 20


@dataclass
class Case:
    """One data set in a volume of its own. `change` alters one small part of it."""

    volume: str
    title: str
    changed: str
    live: Path
    change: Callable[[], None]
    written: float
    ours: dict[str, Measurements] = field(default_factory=dict)
    theirs: dict[str, dict[str, Measurements]] = field(default_factory=dict)
    added: dict[str, int] = field(default_factory=dict)


def measure(
    daemon: MeasuredDaemon, files: int, mebibytes: int, rounds: int, capture: str
) -> list[FigureTable]:
    """A table for each data set."""
    cases = [_small(daemon, files, capture), _large(daemon, mebibytes, capture)]
    for case in cases:
        _beside(daemon, case, rounds)
    # A mapped page may be stored to for that long without a trace: younger files are read again.
    wait = max(case.written for case in cases) + mmap_dirty_horizon_ns() / 1e9 + 1
    time.sleep(max(0.0, wait - time.monotonic()))
    for case in cases:
        for step in ("after a mount, read again", "after a mount, signatures hold"):
            _compare(daemon, case, step)
    tables = [_table(case) for case in cases]
    tables[1].notes += [
        "With capture=inotify one changed page has the file read and hashed whole.",
        _hash_limit(cases[1].live / "file", mebibytes),
    ]
    for case in cases:
        daemon.unmount(case.volume)
    return tables


def _new(daemon: MeasuredDaemon, volume: str, capture: str) -> Path:
    daemon.create(volume, interval="1h", verify="off", capture=capture)
    live = daemon.mount(volume)
    # The capture that every mount begins with is over, and the next one is an hour away.
    while not daemon.snapshots(volume):
        time.sleep(0.05)
    return live


def _small(daemon: MeasuredDaemon, files: int, capture: str) -> Case:
    live = _new(daemon, "small", capture)
    size = small_files(live, files)
    source = random.Random(2)

    def change() -> None:
        victim = source.randrange(files)
        with open(place(live, victim), "ab") as file:
            file.write(source.randbytes(100))

    title = f"Captures: {files:,} small files, {size / 1e6:.1f} MB"
    return Case("small", title, "one file appended to", live, change, time.monotonic())


def _large(daemon: MeasuredDaemon, mebibytes: int, capture: str) -> Case:
    live = _new(daemon, "large", capture)
    large_file(live / "file", mebibytes)
    source = random.Random(3)

    def change() -> None:
        change_page(live / "file", source)

    title = f"Captures: one random file of {mebibytes} MiB"
    return Case("large", title, "one 8 KiB page changed", live, change, time.monotonic())


def _beside(daemon: MeasuredDaemon, case: Case, rounds: int) -> None:
    """Full, nothing changed, one changed: ours and every peer's, in turns."""
    base = daemon.base / f"{case.volume}-peers"
    base.mkdir()
    backups = peers.installed(base)
    for peer in backups:
        peer.prepare()
    case.ours = {step: Measurements() for step in STEPS}
    case.theirs = {peer.name: {step: Measurements() for step in STEPS} for peer in backups}
    case.theirs["cp"] = {"full": Measurements()}
    with case.theirs["cp"]["full"].timed():
        peers.copy(case.live, base / "copy")
    for step in STEPS:
        for number in range(1 if step == "full" else rounds):
            if step == "one changed":
                case.change()
            _ours(daemon, case, step)
            for peer in backups:
                before = peer.stored_bytes()
                with case.theirs[peer.name][step].timed():
                    peer.save(case.live, f"{step.replace(' ', '-')}-{number}")
                _add(case, f"{peer.name} {step}", peer.stored_bytes() - before)


def _ours(daemon: MeasuredDaemon, case: Case, step: str) -> None:
    before = daemon.snapshots(case.volume)[-1]["seq"]
    with case.ours[step].timed():
        taken = daemon.snapshot(case.volume)
    stored = taken["stored_bytes"] if taken["seq"] != before else 0
    _add(case, f"ours {step}", stored)


def _add(case: Case, key: str, count: int) -> None:
    case.added[key] = case.added.get(key, 0) + count


def _compare(daemon: MeasuredDaemon, case: Case, step: str) -> None:
    """The comparison that every mount has run behind its answer."""
    daemon.unmount(case.volume)
    daemon.mount(case.volume)
    sample = case.ours.setdefault(step, Measurements())
    with sample.timed():
        daemon.snapshot(case.volume)


def _table(case: Case) -> FigureTable:
    names = [name for name in case.theirs if name != "cp"]
    heads = ("what", "diffkeeper ms", "added MB")
    table = FigureTable(case.title, (*heads, *(f"{name} ms (ours over it)" for name in names)))
    for step, sample in case.ours.items():
        label = case.changed if step == "one changed" else step
        added = case.added.get(f"ours {step}", 0) / len(sample.values) / 1e6
        cells = [_cell(sample, case.theirs[name].get(step)) for name in names]
        table.add(label, sample.spread(), f"{added:.3f}", *cells)
    copy = case.theirs["cp"]["full"]
    full = ratio(case.ours["full"].median, copy.median)
    table.notes.append(f"cp -a and sync -f of it: {short(copy.median)} ms; full over that: {full}.")
    for name in names:
        one = case.added[f"{name} one changed"] / len(case.ours["one changed"].values) / 1e6
        table.notes.append(f"{name} adds {one:.3f} MB for each changed one.")
    if not names:
        table.notes.append(f"For more to compare with: {peers.HINT}.")
    return table


def _cell(ours: Measurements, theirs: Measurements | None) -> str:
    if theirs is None:
        return "-"
    return f"{theirs.spread()} ({ratio(ours.median, theirs.median)})"


def _hash_limit(path: Path, mebibytes: int) -> str:
    """How long one thread takes to read and hash the file, which is what cannot be avoided."""
    sample = Measurements()
    buffer = bytearray(SEGMENT_BYTES)
    for _ in range(3):
        with sample.timed(), open(path, "rb", buffering=0) as file:
            while count := os.readv(file.fileno(), [buffer]):
                blake3(memoryview(buffer)[:count]).digest()
    speed = mebibytes / 1024 / (sample.median / 1000)
    return f"limit: reading and hashing it with one thread: {sample.spread()} ms, {speed:.1f} GiB/s"
