"""What captures may take of a core, by how idle the machine's processors are."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from diffkeeper import clock, limits
from diffkeeper.service.idle_share import (
    CPU_FRACTION_IDLE_MAX,
    IDLE_SAMPLE_SECONDS,
    IDLE_SECONDS,
    IdleShare,
)

if TYPE_CHECKING:
    from pathlib import Path

PROCESSORS = 4


class Machine:
    """A /proc/stat of its own, and the clock that goes with it."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path = directory / "stat"
        self._now, self._idle, self._busy, self._waiting = 1000.0, 0, 0, 0
        monkeypatch.setattr(clock, "monotonic", lambda: self._now)
        self.pass_by(0.0, idle=0.0)

    def pass_by(self, seconds: float, *, idle: float, waiting: float = 0.0) -> None:
        """Let time pass, with so large a part of it idle, or waiting for a disk."""
        ticks = round(seconds * 100 * PROCESSORS)
        self._now += seconds
        self._idle += round(ticks * idle)
        self._waiting += round(ticks * waiting)
        self._busy += round(ticks * (1 - idle - waiting))
        fields = f"{self._busy} 0 0 {self._idle} {self._waiting} 0 0 0 7 0"
        self._path.write_text(f"cpu  {fields}\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 5\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("idle", "share"),
    [
        (0.0, limits.CPU_FRACTION_MAX),
        (0.02, limits.CPU_FRACTION_MAX),
        (0.1, 0.2),  # half of 0.4 of a core
        (0.5, CPU_FRACTION_IDLE_MAX),
        (1.0, CPU_FRACTION_IDLE_MAX),
    ],
)
def test_half_of_what_is_idle(machine: Machine, tmp_path: Path, idle: float, share: float) -> None:
    spare = IdleShare(str(tmp_path), PROCESSORS)
    assert spare.share() == limits.CPU_FRACTION_MAX, "nothing is known yet"
    machine.pass_by(5.0, idle=idle)
    assert spare.share() == pytest.approx(share)


def test_waiting_for_a_disk_is_not_idle(machine: Machine, tmp_path: Path) -> None:
    spare = IdleShare(str(tmp_path), PROCESSORS)
    spare.share()
    machine.pass_by(5.0, idle=0.0, waiting=1.0)
    assert spare.share() == limits.CPU_FRACTION_MAX


def test_only_the_last_seconds_count(machine: Machine, tmp_path: Path) -> None:
    spare = IdleShare(str(tmp_path), PROCESSORS)
    for _ in range(60):
        spare.share()
        machine.pass_by(1.0, idle=1.0)
    assert spare.share() == CPU_FRACTION_IDLE_MAX
    for _ in range(int(IDLE_SECONDS) + 1):
        machine.pass_by(1.0, idle=0.0)
        spare.share()
    assert spare.share() == limits.CPU_FRACTION_MAX


def test_it_is_looked_at_once_a_second_at_most(machine: Machine, tmp_path: Path) -> None:
    spare = IdleShare(str(tmp_path), PROCESSORS)
    spare.share()
    machine.pass_by(5.0, idle=1.0)
    spare.share()
    (tmp_path / "stat").unlink()
    machine_share = [spare.share() for _ in range(100)]
    assert machine_share == [CPU_FRACTION_IDLE_MAX] * 100


@pytest.mark.parametrize("text", ["", "cpu 1 2", "cpu a b c d e"])
def test_what_cannot_be_read_is_not_idle(machine: Machine, tmp_path: Path, text: str) -> None:
    spare = IdleShare(str(tmp_path), PROCESSORS)
    spare.share()
    machine.pass_by(5.0, idle=1.0)
    (tmp_path / "stat").write_text(text)
    assert spare.share() == limits.CPU_FRACTION_MAX


def test_on_this_machine() -> None:
    """Programs that never rest leave nothing that is idle."""
    processors = len(os.sched_getaffinity(0))
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processors)]
    try:
        spare = IdleShare("/proc", processors)
        spare.share()
        time.sleep(2 * IDLE_SAMPLE_SECONDS)
        assert spare.share() < CPU_FRACTION_IDLE_MAX
    finally:
        for process in busy:
            process.kill()
            process.wait()
