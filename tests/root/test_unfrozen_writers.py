"""Somebody writes who was not frozen and whom no survey saw: never a torn `crash` snapshot."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from diffkeeper import failpoint
from diffkeeper.snapshot.policy import CapturePolicy
from tests.support.containers import Container
from tests.support.spanning import GroupRig, check_counter, counted
from tests.support.trees import describe, difference

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
    policy = CapturePolicy(source="scan", freeze_seconds_max=FREEZE_SECONDS)
    with GroupRig(tmp_path, names, policy) as volumes, Container() as container:
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
                if not taken:
                    continue  # the writer had no turn meanwhile
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


def test_names_of_one_file_that_are_met_in_another_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What changed in it is told from what the first name had; the content is the same."""
    policy = CapturePolicy(source="scan", freeze_seconds_max=FREEZE_SECONDS)
    with GroupRig(tmp_path, ["one"], policy) as volumes, Container() as container:
        live = volumes.live["one"]
        names = [live / f"name{number}" for number in range(8)]
        for number, path in enumerate(names):
            path.write_bytes(bytes([number]) * 100_000)
        container.start({live: tmp_path / "seen"}, "exec sleep 1000")
        volumes.capture()

        def change(point: str) -> None:
            """Just before the freeze looks."""
            if point == "capture.frozen" and names[1].stat().st_nlink == 1:
                for path in names[1:]:
                    path.unlink()
                    os.link(names[0], path)
                with open(names[0], "r+b") as file:
                    file.write(b"changed")

        monkeypatch.setattr(failpoint, "hit", change)
        (live / "other").write_bytes(b"something is due")
        [record] = volumes.capture().values()
        assert (record.consistency, record.cause) == ("crash", "")
        replayed = volumes.replay(record, tmp_path / "replayed")
        assert difference(describe(replayed), describe(live)) == []
