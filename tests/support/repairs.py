"""A captured directory to be damaged and repaired."""

from __future__ import annotations

import os
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

from diffkeeper import limits
from diffkeeper.integrity.bit_rot import UnusedDirectory
from diffkeeper.snapshot.policy import CapturePolicy
from tests.support.capture_rig import CaptureRig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from diffkeeper.format.records import SnapshotRecord

SIZE: Final = 10 * limits.CHUNK_BYTES_DEFAULT + 100  # of the larger file, in bytes


def made(base: Path) -> CaptureRig:
    """A captured directory, which is not watched any more."""
    rig = CaptureRig(base, CapturePolicy(source="scan"))
    (rig.live / "d").mkdir()
    (rig.live / "d" / "f").write_bytes(os.urandom(SIZE))
    (rig.live / "g").write_bytes(os.urandom(100))
    rig.capture()
    return rig


def head(rig: CaptureRig) -> SnapshotRecord:
    """Its newest snapshot."""
    assert rig.state.head is not None
    return rig.state.head


@contextmanager
def opened(rig: CaptureRig) -> Iterator[UnusedDirectory]:
    """Its live directory, as a repair opens it."""
    with closing(UnusedDirectory(rig.store, 1, str(rig.live), head(rig).root)) as live:
        yield live
