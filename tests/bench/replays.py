"""Cold replay of a fresh PostgreSQL cluster, beside copies and restores of the same tree."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from tests.bench import peers
from tests.bench.data import cluster, size_of
from tests.bench.figures import FigureTable, Measurements, ratio

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.daemon import MeasuredDaemon


def measure(daemon: MeasuredDaemon, binaries: Path, rounds: int) -> FigureTable:
    """Each round deletes the live directory and mounts; all targets are new directories.

    What is deleted is moved aside and removed at the end: ext4 without a journal is slow to use
    inodes that were just freed, for all alike.
    """
    base = daemon.base / "replays"
    base.mkdir()
    source = cluster(binaries, base)
    files, size = size_of(source)
    _fill(daemon, source)
    backups = peers.installed(base)
    for peer in backups:
        peer.prepare()
        peer.save(source, "first")
    samples = {
        name: Measurements() for name in ("Mount", "inside", "cp", *(p.name for p in backups))
    }
    for number in range(rounds):
        os.rename(daemon.status("replays")["live"], base / f"gone-{number}")
        with samples["Mount"].timed():
            daemon.mount("replays")
        recovery = daemon.status("replays")["last_recovery"]
        assert recovery["kind"] == "replay", recovery
        samples["inside"].values.append(recovery["ms"])
        daemon.unmount("replays")
        with samples["cp"].timed():
            peers.copy(source, base / f"copy-{number}")
        for peer in backups:
            with samples[peer.name].timed():
                peers.restored(peer, base / f"{peer.name}-{number}", "first")()
    shutil.rmtree(base)
    return _table(samples, files, size)


def _fill(daemon: MeasuredDaemon, source: Path) -> None:
    daemon.create("replays", interval="1h")
    live = daemon.mount("replays")
    peers.copy(source, live / "data")
    daemon.snapshot("replays")
    daemon.unmount("replays")


def _table(samples: dict[str, Measurements], files: int, size: int) -> FigureTable:
    title = f"Replay of a fresh PostgreSQL cluster, {files:,} files, {size / 1e6:.1f} MB"
    table = FigureTable(title, ("what", "median (min to max) ms", "over cp -a and sync"))
    names = {
        "Mount": "Mount, live directory deleted",
        "inside": "of it the replay, durable",
        "cp": "cp -a, sync -f",
        "restic": "restic restore, sync -f",
        "borg": "borg extract, sync -f",
    }
    for name, sample in samples.items():
        table.add(names[name], sample.spread(), ratio(sample.median, samples["cp"].median))
    if len(samples) < 5:
        table.notes.append(f"For more to compare with: {peers.HINT}.")
    return table
