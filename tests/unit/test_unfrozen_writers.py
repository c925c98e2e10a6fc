"""Somebody writes who was not frozen and whom no survey saw: never a torn `crash` snapshot."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from diffkeeper.engine.snapshotter import Policy
from tests.support.spanning import Container, Volumes, check_counter, counted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CAPTURES = 12
CAPTURES_MAX = 200  # until one has met a write in its freeze
FREEZE_SECONDS = 2.0  # on a busy machine the writers may be slow to stop
# Writes each number to one file, then to the other. argv: both.
WRITER = """
import os, sys, time
files = [os.open(path, os.O_RDWR | os.O_CREAT) for path in sys.argv[1:]]
number = 0
while True:
    number += 1
    for file in files:
        os.pwrite(file, b"%020d" % number, 0)
    time.sleep(0.0005)
"""


@contextlib.contextmanager
def host_writer(first: Path, second: Path) -> Iterator[None]:
    """A process of the host, as `docker cp` is one."""
    child = subprocess.Popen([sys.executable, "-c", WRITER, first / "n", second / "n"])
    try:
        deadline = time.monotonic() + 10
        while not counted(second, "n"):
            assert time.monotonic() < deadline, "the writer does not run"
            time.sleep(0.005)
        yield
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("names", [["one"], ["one", "two"]], ids=["alone", "group"])
def test_a_scan_calls_no_torn_snapshot_crash(names: list[str], tmp_path: Path) -> None:
    policy = Policy(source="scan", freeze_seconds_max=FREEZE_SECONDS)
    with Volumes(tmp_path, names, policy) as volumes, Container() as container:
        first, second = volumes.live[names[0]] / "d1", volumes.live[names[-1]] / "d2"
        first.mkdir()
        second.mkdir()
        mounts = {live: tmp_path / "seen" / name for name, live in volumes.live.items()}
        container.start(mounts, "exec sleep 1000")
        fuzzy = 0
        with host_writer(first, second):
            for number in range(CAPTURES_MAX):
                if fuzzy and number >= CAPTURES:
                    break
                taken = volumes.capture()
                if all(record.consistency == "crash" for record in taken.values()):
                    base = tmp_path / f"replay{number}"
                    seen = {n: volumes.replay(r, base / n) for n, r in taken.items()}
                    check_counter(seen[names[0]] / "d1", seen[names[-1]] / "d2", "n")
                else:
                    assert all("not frozen" in record.cause for record in taken.values())
                    fuzzy += 1
        assert fuzzy, "nobody wrote during a freeze"
        assert {record.consistency for record in volumes.capture().values()} == {"crash"}
        assert not volumes.capture(), "all is quiet"
