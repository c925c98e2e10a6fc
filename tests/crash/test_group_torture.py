"""Processes write to two volumes while these are captured: each capture is one instant of both.

The truth is a copy of both directories made inside the very freeze that the snapshots show.
Counters that span the volumes are held against each other besides: a copy of the truth that was
itself no instant would show there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper.snapshot import group_capture
from diffkeeper.snapshot.policy import CapturePolicy
from tests.support import torture
from tests.support.churn.steps import chosen
from tests.support.containers import Container
from tests.support.spanning import GroupRig, check_counter, counted, counter
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diffkeeper.format.records import SnapshotRecord
    from diffkeeper.freeze.freezer import Freezer, Frozen

CAPTURES = int(os.environ.get("TORTURE_SNAPSHOTS", "4"))
SEED = int(os.environ.get("TORTURE_SEED", "1"))
NAMES = ("a", "b")
# Long enough for the copies of the truth inside the freeze.
FREEZE_SECONDS = 5.0
BEGIN_SECONDS_MAX = 60.0
REPOSITORY = Path(__file__).parents[2]


class GroupCopyingFreezer:
    """The real freezer; before each thaw it copies the live directories."""

    def __init__(self, real: Freezer, live: dict[str, Path], to: Path) -> None:
        self._real = real
        self._live = live
        self.copies = {name: to / name for name in live}
        self.inodes: dict[str, dict[str, int]] = {}  # of the names that were copied
        self.frozen_at: set[str] = set()
        self.copied = False
        self.copied_at = self.compared_at = 0.0

    @contextlib.contextmanager
    def frozen(self, cgroups: Sequence[str], limit_seconds: float) -> Iterator[Frozen]:
        """As the real one."""
        with self._real.frozen(cgroups, limit_seconds) as frozen:
            yield frozen
            self.copied = False
            for name, copy in self.copies.items():
                shutil.rmtree(copy, ignore_errors=True)
                copy.parent.mkdir(exist_ok=True)
                subprocess.run(
                    ["cp", "-a", "--sparse=never", str(self._live[name]), str(copy)], check=True
                )
                self.inodes[name] = torture.inodes_of(self._live[name])
            self.frozen_at = set(cgroups)
            self.copied_at = time.monotonic()
            self.copied = not frozen.expired


def churning(place: Path, seed: int, source: str) -> str:
    """Every kind of change that the source can see, by two processes."""
    beside = place.parent.parent / "beside" / str(seed)
    records = place.parent.parent / "records" / str(seed)
    for made in (beside, records):
        made.mkdir(parents=True)
    kinds = ",".join(chosen((), list(torture.LEFT_OUT[source])))
    return (
        f"{sys.executable} -m tests.support.churn {place} {seed} --outside {beside}"
        f" --records {records} --processes 2 --threads 1 --kinds {kinds}"
    )


def start(containers: Sequence[Container], volumes: GroupRig, source: str) -> None:
    """One container that spans both volumes, and one that has only the second."""
    inside = {name: volumes.base / "in" / name for name in NAMES}
    a, b = inside["a"], inside["b"]
    commands = [
        counter(a / "count", b / "count"),
        counter(b / "back", a / "back"),
        churning(a, SEED, source),
        churning(b, SEED + 100, source),
    ]
    spanning = "".join(f"{command} &\n" for command in commands)
    containers[0].start(
        {volumes.live[name]: inside[name] for name in NAMES}, f"cd {REPOSITORY}\n{spanning}wait"
    )
    place = volumes.base / "other" / "b"
    containers[1].start(
        {volumes.live["b"]: place}, f"cd {REPOSITORY}\n{churning(place, SEED + 200, source)}"
    )
    await_all(volumes)


def await_all(volumes: GroupRig) -> None:
    """Until each program has changed something: on a busy machine one may take long to begin."""
    deadline = time.monotonic() + BEGIN_SECONDS_MAX
    counters = (volumes.live["b"], "count"), (volumes.live["a"], "back")
    records = [volumes.base / "records" / str(SEED + more) for more in (0, 100, 200)]
    while not (
        all(counted(*each) for each in counters) and all(any(r.glob("log-*")) for r in records)
    ):
        assert time.monotonic() < deadline, "the programs do not begin"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("source", ["ebpf", "inotify", "scan"])
def test_every_capture_is_one_instant_of_both(source: str, tmp_path: Path) -> None:
    policy = CapturePolicy(source=source, freeze_seconds_max=FREEZE_SECONDS)
    with (
        GroupRig(tmp_path, NAMES, policy) as volumes,
        Container() as spanning,
        Container() as other,
    ):
        for watched in volumes.watched.values():
            if watched.watcher.source.name != source:
                pytest.skip(watched.watcher.reason)
        freezer = GroupCopyingFreezer(volumes.context.freezer, volumes.live, tmp_path / "copy")
        volumes.context.freezer = freezer  # type: ignore[assignment]  # the real one inside
        start((spanning, other), volumes, source)
        numbers: list[tuple[int, int]] = []
        freezes: list[float] = []
        fuzzy: list[str] = []
        deadline = time.monotonic() + 240
        try:
            while len(numbers) < CAPTURES:
                assert time.monotonic() < deadline, f"{len(numbers)} captures compared in time"
                freezer.frozen_at = set()
                taken = volumes.capture()
                assert taken.keys() == set(NAMES), "all that runs changes both"
                fuzzy += [record.cause for record in taken.values() if record.cause]
                if not any(record.cause for record in taken.values()):
                    assert len(freezer.frozen_at) == 2, "both containers are frozen"
                    numbers.append(compare(volumes, freezer, taken, tmp_path / "replayed"))
                    freezes.append(taken["a"].freeze_ms)
        finally:
            volumes.context.freezer = freezer._real
        assert len(fuzzy) <= 2 + CAPTURES // 10, fuzzy
        assert numbers == sorted(numbers)
        assert len(set(numbers)) == len(numbers), "the counters stood still"
        print(f"{source}: {len(numbers)} captures compared, seed {SEED}, counters {numbers[-1]}")


def compare(
    volumes: GroupRig, freezer: GroupCopyingFreezer, taken: dict[str, SnapshotRecord], to: Path
) -> tuple[int, int]:
    """Each snapshot is its directory in the freeze, and both agree; returns the counters."""
    groups = {record.group_id for record in taken.values()}
    assert len(groups) == 1
    assert taken["a"].group == {str(r.volume_id): r.seq for r in taken.values()}
    for name, record in taken.items():
        replayed = volumes.replay(record, to / name)
        wrong = difference(describe(freezer.copies[name]), describe(replayed))
        wrong = unexcused(volumes, freezer, name, wrong, to / name)
        assert not wrong, f"seed {SEED}, {name}, snapshot {record.seq}: " + "\n".join(wrong[:5])
    freezer.compared_at = freezer.copied_at
    forth = check_counter(to / "a", to / "b", "count")
    back = check_counter(to / "b", to / "a", "back")
    shutil.rmtree(to)
    return forth, back


def logs_of(volumes: GroupRig, name: str) -> list[Path]:
    """Of those that write to a volume; the second one is written to under two seeds."""
    seeds = {"a": (SEED,), "b": (SEED + 100, SEED + 200)}[name]
    return [log for s in seeds for log in (volumes.base / "records" / str(s)).glob("log-*")]


def unexcused(
    volumes: GroupRig, freezer: GroupCopyingFreezer, name: str, found: list[str], to: Path
) -> list[str]:
    """Differences that no document tells of, with what was done to the files."""
    logs, inodes, end = logs_of(volumes, name), freezer.inodes[name], freezer.copied_at
    named = torture.given_names(logs, freezer.compared_at, end)
    return [
        f"{line}{torture.explained(line, freezer.copies[name], to, inodes, logs, end)}"
        for line in found
        if not torture.may_be_late(
            volumes.watched[name], inodes.get(torture.path_of(line), 0), named
        )
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_captured_one_by_one_the_counters_disagree(tmp_path: Path) -> None:
    """What the test above relies on: without a group the very same load is no instant of both."""
    policy = CapturePolicy(freeze_seconds_max=FREEZE_SECONDS)
    with GroupRig(tmp_path, NAMES, policy) as volumes, Container() as spanning:
        inside = {name: tmp_path / "in" / name for name in NAMES}
        script = counter(inside["a"] / "count", inside["b"] / "count")
        spanning.start({volumes.live[name]: inside[name] for name in NAMES}, script)
        apart = 0
        for attempt in range(20):
            records = []
            for member in volumes.members():
                records += [r for r in group_capture.capture([member], "manual") if r is not None]
            to = tmp_path / "out" / str(attempt)
            for record in records:
                name = NAMES[record.volume_id - 1]
                volumes.replay(record, to / name)
            with contextlib.suppress(AssertionError):
                check_counter(to / "a", to / "b", "count")
                continue
            apart += 1
        assert apart > 0
