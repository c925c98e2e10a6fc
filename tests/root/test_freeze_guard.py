"""The guard stays in memory, where that is allowed, and works where it is not."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import diffkeeper
from diffkeeper.freeze.freezer import Freezer
from diffkeeper.freeze.guard import Guard
from diffkeeper.service import thawing

KILO = 1024
# Says whether its guard stays in memory, and whether it takes messages.
PROGRAM = """
from diffkeeper.freeze.guard import Guard
guard = Guard()
guard.ensure()
guard.arm(1e9, "/nowhere", bytes(16), ["/nowhere/cgroup.freeze"])
guard.disarm()
print(guard.stays)
guard.stop()
"""


def kilobytes(pid: int, field: str) -> int:
    lines = Path("/proc", str(pid), "status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1])


def test_all_that_it_has_is_locked() -> None:
    guard = Guard()
    guard.ensure()
    try:
        assert guard.stays
        locked = kilobytes(guard.pid, "VmLck")
        # What the kernel shows in it of its own is no memory of the process.
        assert locked >= kilobytes(guard.pid, "VmSize") - 256
        assert locked < 32 * KILO
        assert kilobytes(os.getpid(), "VmLck") == 0
    finally:
        guard.stop()


def test_where_it_may_not(tmp_path: Path) -> None:
    least = ["prlimit", "--memlock=65536", "setpriv"]
    least += ["--inh-caps=-ipc_lock", "--bounding-set=-ipc_lock"]
    path = str(Path(diffkeeper.__file__).parents[1])
    done = subprocess.run(
        [*least, sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


@pytest.mark.parametrize("stays", [True, False])
def test_it_is_told_once(
    stays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Freezer, "guard_stays", stays)
    freezer = Freezer("/sys/fs/cgroup", str(tmp_path / "journal"))
    troubles: dict[str, str] = {}
    with caplog.at_level(logging.WARNING):
        thawing.start(freezer, troubles)
    freezer.stop()
    assert troubles == {}
    told = [record.message for record in caplog.records]
    assert told == ([] if stays else ["guard_may_be_swapped"])
