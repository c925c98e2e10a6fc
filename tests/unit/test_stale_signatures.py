"""Signatures of deleted files go, also where inode numbers never come back (tmpfs)."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper.snapshot.stat_cache_expiry import SIGNATURES_STALE_MIN
from diffkeeper.space.maintenance import Maintenance
from tests.support.capture_rig import CaptureRig
from tests.support.stored import signatures

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = 40


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CaptureRig]:
    monkeypatch.setattr("diffkeeper.snapshot.stat_cache_expiry.SIGNATURES_SECONDS", 0.0)
    monkeypatch.setattr("diffkeeper.snapshot.stat_cache_expiry.SIGNATURES_STALE_MIN", 10)
    live = Path(tempfile.mkdtemp(dir="/dev/shm"))  # a tmpfs, on every machine
    with CaptureRig(tmp_path, live=live) as made:
        yield made
    shutil.rmtree(live)


def numbers(live: Path) -> set[int]:
    """Inode numbers of all that is there."""
    found = {live.stat().st_ino}
    for top, directories, files in os.walk(live):
        found |= {os.lstat(os.path.join(top, name)).st_ino for name in directories + files}
    return found


def fill(live: Path, turn: int) -> None:
    """Other files in the place of those of the turn before."""
    shutil.rmtree(live / f"d{turn - 1}", ignore_errors=True)
    below = live / f"d{turn}" / "below"
    below.mkdir(parents=True)
    for number in range(FILES):
        for directory in (live, below):
            path = directory / f"f{number}"
            path.unlink(missing_ok=True)
            path.write_bytes(b"%d %d" % (turn, number))
    (below / "zeros").write_bytes(bytes(8192))
    (below / "empty").touch()
    (below / "a link").symlink_to("empty")
    (live / "linked").unlink(missing_ok=True)
    (live / "linked").write_bytes(b"%d" % turn)
    os.link(live / "linked", below / "another name")


def test_signatures_do_not_add_up(rig: CaptureRig) -> None:
    maintenance = Maintenance(rig.store)
    for turn in range(6):
        fill(rig.live, turn)
        rig.capture()
    there = numbers(rig.live)
    stored = {number for number, _ in signatures(rig.store, 1)}
    assert there <= stored
    assert len(stored) > 5 * len(there)
    for _ in range(4):  # a directory that is gone tells of what was below it the next time
        maintenance.run_all()
    stored = {number for number, _ in signatures(rig.store, 1)}
    assert there <= stored
    assert len(stored) <= 2 * len(there) + SIGNATURES_STALE_MIN


def test_those_of_use_stay_and_nothing_is_looked_up_below_the_bound(
    rig: CaptureRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(rig.live, 1)
    rig.capture()
    before = dict(signatures(rig.store, 1))
    maintenance = Maintenance(rig.store)
    maintenance.run_all()
    assert maintenance._signatures._kept == {}  # no more than twice the files: no pass
    monkeypatch.setattr("diffkeeper.snapshot.stat_cache_expiry.SIGNATURES_STALE_MIN", -1_000)
    maintenance.run_all()
    assert dict(signatures(rig.store, 1)) == before
    assert maintenance._signatures._kept == {1: len(before)}
    monkeypatch.setattr("diffkeeper.snapshot.stat_cache_expiry.SIGNATURES_STALE_MIN", 10)
    (rig.live / "f1").unlink()
    rig.capture()
    maintenance.run_all()
    assert len(dict(signatures(rig.store, 1))) == len(before)  # one of no use is within the bound
