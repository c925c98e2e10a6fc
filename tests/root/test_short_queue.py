"""A queue of inotify that overflows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper.snapshot.policy import CapturePolicy
from diffkeeper.sources.inotify import InotifySource
from tests.support.capture_rig import CaptureRig
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def short_queue() -> Iterator[int]:
    """An inotify queue of few events for instances made from now on."""
    path = Path("/proc/sys/fs/inotify/max_queued_events")
    if not os.access(path, os.W_OK):
        pytest.skip("the length of inotify's queue cannot be set here")
    before = path.read_text()
    path.write_text("20")
    yield 20
    path.write_text(before)


def test_a_queue_that_overflowed_leads_to_a_comparison(short_queue: int, tmp_path: Path) -> None:
    with CaptureRig(tmp_path, CapturePolicy(source="inotify")) as rig:
        for number in range(5):
            (rig.live / f"d{number}").mkdir()
        rig.capture()
        # Without the pump, as when the machine is busy: events gather in the kernel's queue.
        source = rig.watched.watcher.source
        assert isinstance(source, InotifySource)
        with source._lock:
            for number in range(10 * short_queue):
                (rig.live / f"d{number % 5}" / f"f{number}").write_bytes(b"%d" % number)
        snapshot = rig.capture()
        assert snapshot.files == 10 * short_queue
        replayed = rig.replay(snapshot, "replayed")
        assert difference(describe(replayed), describe(rig.live)) == []
