"""A repair of files of which one is immutable."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from diffkeeper.integrity.repair import Repair, RepairJournal
from tests.support.repairs import head, made, opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from diffkeeper.integrity.bit_rot import UnusedDirectory
    from tests.support.capture_rig import CaptureRig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[CaptureRig]:
    with made(tmp_path) as rig:
        yield rig


@pytest.fixture
def live(rig: CaptureRig) -> Iterator[UnusedDirectory]:
    with opened(rig) as live:
        yield live


def test_one_file_that_refuses_leaves_the_others_settled(
    rig: CaptureRig, live: UnusedDirectory
) -> None:
    """A killed repair of two files, of which one has become immutable."""
    paths = (b"d/f", b"g")
    files = {path: rig.live / os.fsdecode(path) for path in paths}
    wanted = {path: file.stat().st_mtime_ns for path, file in files.items()}
    for file in files.values():
        file.write_bytes(file.read_bytes())  # put back, and not settled
    numbers = tuple((path, file.stat().st_ino) for path, file in files.items())
    journal = RepairJournal(head(rig).root, numbers)
    (rig.base / "repair").write_bytes(journal.encode())
    subprocess.run(["chattr", "+i", str(files[b"g"])], check=True)
    try:
        work = Repair(rig.store, rig.state, live, str(rig.base / "repair"))
        done, failed = work.finish(journal)
    finally:
        subprocess.run(["chattr", "-i", str(files[b"g"])], check=True)
    assert done == [b"d/f"]
    assert failed == {b"g": "Operation not permitted"}
    assert files[b"d/f"].stat().st_mtime_ns == wanted[b"d/f"]
    assert files[b"g"].stat().st_mtime_ns != wanted[b"g"], "captured as written"
    assert not (rig.base / "repair").exists()
