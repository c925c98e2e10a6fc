"""Steps between any two looks of a capture: each snapshot is the volume as it was in the freeze."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper import limits
from diffkeeper.snapshot.policy import CapturePolicy
from tests.support import disks, torture
from tests.support.between import ELSEWHERE, Between
from tests.support.capture_rig import CaptureRig
from tests.support.churn.steps import chosen
from tests.support.containers import Container

if TYPE_CHECKING:
    from collections.abc import Iterator

SNAPSHOTS = int(os.environ.get("TORTURE_SNAPSHOTS", "4"))
SEED = int(os.environ.get("TORTURE_SEED", "1"))
ONLY = tuple(filter(None, os.environ.get("TORTURE_KINDS", "").split(",")))
SEEDS = SNAPSHOTS // 2
CAPTURES = 4 * SNAPSHOTS
DISK_BYTES = 200 * limits.MIB
FREEZE_SECONDS = 5.0
# Names that come and go in the churn: files, directories with all below, what is written aside.
EXCLUDE = ("**/f3", "d1/d2", "d0/f*", "**/*.00")
# Under inotify what is written under a name that is left out may be ten minutes late under others.
SECOND_NAMES = ("link", "map_unlinked")
TRACE_LINES = 60

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not torture.CGROUPS, reason="needs root and a cgroup freezer"
)


@pytest.fixture
def base() -> Iterator[Path]:
    """In memory: each capture and each replay syncs what it has written."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as made:
        yield Path(made)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(SEED, SEED + SEEDS))
@pytest.mark.parametrize("exclude", [(), EXCLUDE], ids=["all", "exclude"])
@pytest.mark.parametrize("source", ["inotify", "scan"])
def test_every_snapshot_is_the_volume_in_its_freeze(
    source: str, exclude: tuple[str, ...], seed: int, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = CapturePolicy(source=source, freeze_seconds_max=FREEZE_SECONDS, exclude=exclude)
    late = SECOND_NAMES if exclude and source == "inotify" else ()
    kinds = chosen(ONLY, [*ELSEWHERE, *late])
    (base / "rig").mkdir()
    with (
        disks.file_system("ext4", base, DISK_BYTES) as disk,
        CaptureRig(base / "rig", policy, live=disk / "live") as rig,
        Container() as container,
    ):
        container.start({rig.live: base / "seen"}, "exec sleep 1000")
        run = Between(rig, seed, kinds, monkeypatch)
        try:
            for number in range(CAPTURES):
                found = run.capture()
                told = "\n".join([*found[:5], *run.steps.trace[-TRACE_LINES:]])
                assert not found, f"seed {seed}, capture {number}:\n{told}"
            found = run.at_rest()
            assert not found, f"seed {seed}, at rest:\n" + "\n".join(found[:5])
        finally:
            run.steps.close()
        assert run.compared > CAPTURES // 2
        print(f"{source}, seed {seed}: {run.compared} snapshots compared, {run.late} late")
