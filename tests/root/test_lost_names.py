"""A file is written to in ways that are hinted under a name which it has lost."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from diffkeeper import failpoint, limits
from diffkeeper.freeze.writers import Writers
from diffkeeper.snapshot.policy import CapturePolicy
from tests.support.capture_rig import CaptureRig
from tests.support.churn import syscalls
from tests.support.containers import Container
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FREEZE_SECONDS = 2.0  # on a busy machine a process may be slow to stop
BYTES = 8192


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[CaptureRig]:
    policy = CapturePolicy(source="inotify", freeze_seconds_max=FREEZE_SECONDS)
    with CaptureRig(tmp_path, policy) as made, Container() as container:
        container.start({made.live: tmp_path / "seen"}, "exec sleep 1000")
        (made.live / "file").write_bytes(bytes(BYTES))
        for number in range(3):  # until nothing is new
            (made.live / "due").write_bytes(b"%d" % number)
            made.capture()
        (made.live / "due").write_bytes(b"once more")
        yield made


def with_us(rig: CaptureRig) -> Writers:
    """This process is one of those that write, and acts before the freeze."""
    found = rig.writers()
    return replace(found, pids=(*found.pids, os.getpid()))


def settled() -> None:
    """Time stamps are old enough to prove something."""
    time.sleep(2 * limits.TIMESTAMP_GRANULE_NS / 1e9)


def renamed(live: Path) -> int:
    """A descriptor of a file that goes on under another name than it was opened by."""
    descriptor = os.open(live / "file", os.O_RDWR)
    os.link(live / "file", live / "other")
    (live / "file").unlink()
    return descriptor


def without_name(live: Path) -> int:
    """A descriptor of a file that was written before it got a name."""
    descriptor = os.open(live, os.O_TMPFILE | os.O_RDWR, 0o644)
    os.write(descriptor, bytes(BYTES))
    syscalls.link_open(descriptor, str(live / "other"))
    return descriptor


class MappedMeanwhile:
    """Maps a file within a capture, and lets go of it before the freeze."""

    def __init__(self, live: Path, opened: Callable[[Path], int]) -> None:
        self._live = live
        self._opened = opened
        self._at = 0

    def begin(self) -> None:
        descriptor = self._opened(self._live)
        self._at = syscalls.mmap(descriptor, BYTES, syscalls.READ | syscalls.WRITE)
        os.close(descriptor)
        syscalls.store(self._at, b"first")
        settled()

    def end(self) -> None:
        """The page is dirty: its next store moves no time stamp."""
        syscalls.store(self._at, b"second")
        syscalls.munmap(self._at, BYTES)


@pytest.mark.parametrize("frozen", [True, False], ids=["freeze", "none"])
@pytest.mark.parametrize("opened", [renamed, without_name])
def test_a_mapping_that_comes_and_goes(
    opened: Callable[[Path], int], frozen: bool, rig: CaptureRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored to after it was read, and closed: no name that it has is hinted."""
    mapping = MappedMeanwhile(rig.live, opened)
    acts: dict[str, Callable[[], None]] = {
        "capture.drained": mapping.begin,
        "capture.frozen" if frozen else "capture.precopied": mapping.end,
    }
    monkeypatch.setattr(failpoint, "hit", lambda name: acts.pop(name, lambda: None)())
    writers = with_us(rig) if frozen else Writers()
    snapshot = rig.capture_of("manual", writers)
    assert not acts
    assert snapshot is not None
    assert (rig.live / "other").read_bytes()[:6] == b"second"
    replayed = rig.replay(snapshot, "replayed")
    assert difference(describe(rig.live), describe(replayed)) == []
