"""Volumes share the maps of eBPF: what has no room is at the cost of the volume that takes most."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from diffkeeper.errors import UnsupportedError
from diffkeeper.snapshot.policy import CapturePolicy
from diffkeeper.sources.ebpf import maps
from diffkeeper.sources.ebpf.ebpf_source import EbpfSource
from diffkeeper.sources.ebpf.probe import Sources
from diffkeeper.sources.ebpf.program import Program
from tests.support.capture_rig import CaptureRig
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROOM = 64
MARKS = 16


@pytest.fixture(scope="module")
def sources() -> Iterator[Sources]:
    """Programs with room for few files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maps, "EBPF_WATCHED_MAX", ROOM)
        patch.setattr(maps, "EBPF_FILES_MAX", MARKS)
        try:
            program = Program.load()
        except UnsupportedError as error:
            pytest.skip(f"no eBPF: {error}")
        yield Sources.of(program)
        program.close()


@pytest.fixture
def opened() -> Iterator[contextlib.ExitStack]:
    """Closes the volumes of a test."""
    with contextlib.ExitStack() as stack:
        yield stack


def volume(stack: contextlib.ExitStack, base: Path, sources: Sources, files: int) -> CaptureRig:
    """A captured volume with so many files."""
    base.mkdir()
    rig = stack.enter_context(CaptureRig(base, CapturePolicy(source="ebpf"), sources))
    add(rig, files)
    rig.capture()
    return rig


def add(rig: CaptureRig, files: int) -> None:
    there = len(list(rig.live.iterdir()))
    for number in range(there, there + files):
        (rig.live / f"f{number}").write_bytes(b"%d" % number)


def source_of(rig: CaptureRig) -> str:
    return rig.watched.watcher.source.name


def assert_seen(rig: CaptureRig, name: str) -> None:
    """A write to a file that was there is in the next snapshot, as all else."""
    with open(rig.live / "f0", "r+b") as file:
        file.write(b"new")
    assert rig.watched.pending(rig.writers())
    replayed = rig.replay(rig.capture(), name)
    assert difference(describe(rig.live), describe(replayed)) == []


def test_the_large_volume_gives_way(
    disk: Path, sources: Sources, opened: contextlib.ExitStack
) -> None:
    """A small one that comes to a full map is watched with eBPF, and the large one falls back."""
    large = volume(opened, disk / "first-large", sources, ROOM - 4)
    assert source_of(large) == "ebpf"
    small = volume(opened, disk / "first-small", sources, ROOM // 4)
    assert source_of(small) == "ebpf"
    with open(large.live / "f1", "r+b") as file:
        file.write(b"when nothing of it was watched")
    assert_seen(large, "large-0")
    assert source_of(large) == "inotify"
    assert "of all volumes, and this one has the most" in large.watched.watcher.reason
    assert_seen(small, "small-0")
    assert_seen(large, "large-1")
    assert source_of(small) == "ebpf"


def test_a_volume_that_grows_beyond_all_others_pays_itself(
    disk: Path, sources: Sources, opened: contextlib.ExitStack
) -> None:
    small = volume(opened, disk / "small", sources, ROOM // 4)
    large = volume(opened, disk / "large", sources, 2 * ROOM)
    assert source_of(large) == "inotify"
    assert "no other volume has more" in large.watched.watcher.reason
    add(small, ROOM // 2)
    assert_seen(small, "small-0")
    assert source_of(small) == "ebpf", "what the large one had is free again"


def test_what_is_nobodys_gives_way_first(
    disk: Path, sources: Sources, opened: contextlib.ExitStack
) -> None:
    """Files of a number that was given up, and that exist no more, take nobody's room."""
    other = volume(opened, disk / "other", sources, ROOM // 2)
    rig = volume(opened, disk / "renewed", sources, ROOM // 4)
    rig.watched.forget()
    before = list(rig.live.iterdir())
    add(rig, ROOM * 3 // 8)
    for file in before:
        if file.name != "f0":
            file.unlink()
    assert_seen(rig, "renewed-0")
    assert_seen(other, "other-0")
    assert (source_of(rig), source_of(other)) == ("ebpf", "ebpf")


def test_marks_without_room_are_those_of_the_busy_volume(disk: Path, sources: Sources) -> None:
    """For as long as it goes on, and again after its marks were taken."""
    assert (program := sources._program) is not None
    busy, calm = (EbpfSource(program, disk.stat().st_dev, 14) for _ in range(2))
    files = [disk / f"marked{number}" for number in range(2 * MARKS)]
    for file in files:
        file.write_bytes(b"x" * 100)
    with contextlib.ExitStack() as stack:
        for source in (busy, calm):
            source.start()
            stack.callback(source.stop)
        calm.watch_new([files[0].stat().st_ino])
        os.truncate(files[0], 99)
        calm.drain()  # takes what the volumes of other tests have left
        for turn in range(3):
            busy.watch_new([file.stat().st_ino for file in files[1:]])
            calm.watch_new([files[0].stat().st_ino])
            for file in files[1:]:
                os.truncate(file, 10 + turn)
            os.truncate(files[0], 10 + turn)
            dirty = calm.drain()
            assert (dirty.everything, list(dirty.files)) == (False, [files[0].stat().st_ino])
            assert busy.drain().everything
