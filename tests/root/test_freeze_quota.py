"""Freezes of cgroups that have used up their quota of CPU, by the kernel's own controllers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper.errors import FreezeError
from diffkeeper.freeze.cgroups import Hierarchy
from diffkeeper.freeze.quota import QUOTA_WAIT_SECONDS_MAX, Quotas, first_turn
from tests.support.cgroups import remove

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffkeeper.freeze.freezer import Freezer

ROOT = "/sys/fs/cgroup"
PERIOD_SECONDS = 0.1
QUOTA_SECONDS = 0.01
FREEZE_SECONDS = 0.03  # a freeze that begins at any moment is too short for the next period
FREEZES = 12
WAIT_SECONDS = 20


class Cgroups:
    """Containers with a quota, each busy: one cgroup of the freezer, one of the CPU controller."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._processes: list[subprocess.Popen[bytes]] = []
        self.freezers: list[str] = []
        self.controllers: list[str] = []

    def start(self, quota_seconds: float) -> str:
        """One more; its freezer's directory."""
        name = f"{self._base}-{len(self.freezers)}"
        self.freezers.append(f"{ROOT}/freezer/{name}")
        self.controllers.append(f"{ROOT}/cpu/{name}")
        for directory in (self.freezers[-1], self.controllers[-1]):
            os.mkdir(directory)
        quota = Path(self.controllers[-1], "cpu.cfs_quota_us")
        quota.write_text(str(int(quota_seconds * 1e6)))
        self._processes.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
        for directory in (self.freezers[-1], self.controllers[-1]):
            Path(directory, "cgroup.procs").write_text(str(self._processes[-1].pid))
        return self.freezers[-1]

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for directory in self.freezers + self.controllers:
            remove(directory)


@pytest.fixture
def cgroups() -> Iterator[Cgroups]:
    v1 = Hierarchy(ROOT).v1
    if not v1 or not os.path.exists(f"{ROOT}/cpu/cgroup.procs"):
        pytest.skip("needs version 1 of the freezer and the cpu controller")
    made = Cgroups(f"diffkeeper-quota-{os.getpid()}")
    yield made
    made.stop()


def used_up(directory: str) -> int:
    """In how many periods the quota was used up, told without our own code."""
    text = Path(directory.replace("/freezer/", "/cpu/"), "cpu.stat").read_text()
    return int(text.split("nr_throttled ")[1].split()[0])


def wait_for_use(directory: str, periods: int) -> None:
    """Until the quota was used up in so many more periods."""
    least = used_up(directory) + periods
    deadline = time.monotonic() + WAIT_SECONDS
    while used_up(directory) < least:
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_a_freeze_begins_when_a_period_does(cgroups: Cgroups, freezer: Freezer) -> None:
    """Nine tenths of the time the container cannot run, and so not freeze either."""
    directory = cgroups.start(QUOTA_SECONDS)
    frozen = 0
    for number in range(FREEZES):
        wait_for_use(directory, 2)
        time.sleep(PERIOD_SECONDS * number / FREEZES)
        with contextlib.suppress(FreezeError), freezer.frozen([directory], FREEZE_SECONDS):
            frozen += 1
    assert frozen >= FREEZES * 3 // 4


def test_the_beat_of_periods_is_remembered(
    cgroups: Cgroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked for once; then few looks tell when the next period begins."""
    directories = [cgroups.start(QUOTA_SECONDS) for _ in range(2)]
    quotas, looks = Quotas(ROOT), 0

    def counted(seconds: float) -> None:
        nonlocal looks
        looks += 1
        time.sleep(seconds)

    monkeypatch.setattr("diffkeeper.freeze.quota.clock.sleep", counted)
    found: list[int] = []
    for _ in range(10):
        for directory in directories:
            wait_for_use(directory, 2)
        quotas.await_turn(directories)
        found.append(looks)
        looks = 0
    assert all(count > 0 for count in found)
    # A busy machine misses the moment now and then; without a memory of the beat each one would.
    assert sum(count <= 25 for count in found[1:]) >= 2, found


def test_what_a_quota_does_is_told(cgroups: Cgroups, freezer: Freezer) -> None:
    """Periods that are out of step by more than the limit: no moment is right for both."""
    directories = [cgroups.start(0.001) for _ in range(2)]
    for directory in directories:
        wait_for_use(directory, 3)
    told = ""
    for _ in range(200):
        try:
            with freezer.frozen(directories, 0.001):
                continue
        except FreezeError as error:
            told = str(error)
            break
    assert "did not freeze" in told
    assert "its CPU quota was used up in " in told
    assert "periods of 100 ms" in told


def test_no_quota_no_wait(cgroups: Cgroups) -> None:
    """Nothing is waited for that has no quota, or does not use it up."""
    free, idle = cgroups.start(-1e-6), cgroups.start(10.0)
    quotas = Quotas(ROOT)
    looks: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffkeeper.freeze.quota.clock.sleep", looks.append)
        quotas.await_turn([free, idle, f"{ROOT}/freezer/that-is-gone"])
    assert looks == []
    assert quotas.describe(free) == quotas.describe(idle) == ""


def test_the_quota_of_who_holds_it_counts(cgroups: Cgroups) -> None:
    directory = cgroups.start(QUOTA_SECONDS)
    wait_for_use(directory, 1)
    assert "used up" in Quotas(ROOT).describe(f"{directory}")
    for controller in ("freezer", "cpu"):
        os.mkdir(f"{directory.replace('freezer', controller)}/below")
    try:
        assert "used up" in Quotas(ROOT).describe(f"{directory}/below")
    finally:
        for controller in ("freezer", "cpu"):
            os.rmdir(f"{directory.replace('freezer', controller)}/below")


@pytest.mark.parametrize(
    ("phases", "first"),
    [([5.0], 0), ([1.0, 2.0], 0), ([9.0, 1.0], 0), ([1.0, 9.0, 5.0], 2), ([0.0, 3.0, 6.0], 0)],
)
def test_whose_turn_is_first(phases: list[float], first: int) -> None:
    """The longest time in which nobody's period begins is not waited through."""
    assert first_turn([100 + phase for phase in phases], 10.0) == first


def test_version_2_is_read_as_well(tmp_path: Path) -> None:
    (tmp_path / "pod" / "one").mkdir(parents=True)
    (tmp_path / "pod" / "cpu.max").write_text("20000 50000\n")
    (tmp_path / "pod" / "cpu.stat").write_text("usage_usec 5\nnr_periods 7\nnr_throttled 3\n")
    (tmp_path / "pod" / "one" / "cpu.max").write_text("max 100000\n")
    quotas = Quotas(str(tmp_path))
    assert "3 of 7 periods of 50 ms" in quotas.describe(str(tmp_path / "pod" / "one"))
    assert QUOTA_WAIT_SECONDS_MAX > 2 * PERIOD_SECONDS
