"""Limits of the machine that captures of little are held against."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import lmdb

from tests.bench.figures import Measurements

COMMITS = 30
# What a capture of one page stores: a chunk, nodes of the file and of its directory, records.
VALUES_BYTES = (65_536, 8_192, 4_096, 512, 256)


def commits(base: Path) -> Measurements:
    """Bare durable LMDB transactions of about what the capture of one page stores."""
    place = Path(tempfile.mkdtemp(prefix="commits-", dir=base))
    environment = lmdb.open(str(place), map_size=1 << 30)
    sample = Measurements()
    for _ in range(COMMITS):
        with sample.timed(), environment.begin(write=True) as transaction:
            for size in VALUES_BYTES:
                transaction.put(os.urandom(32), os.urandom(size))
    environment.close()
    return sample


def walk(base: Path) -> Measurements:
    """An lstat of every name below `base`: what no tool without hints can do without."""
    sample = Measurements()
    for _ in range(3):
        with sample.timed():
            pending = [str(base)]
            while pending:
                with os.scandir(pending.pop()) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(entry.path)
                        entry.stat(follow_symlinks=False)
    return sample
