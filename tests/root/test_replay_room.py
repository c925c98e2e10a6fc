"""A replay is refused before it begins where it surely does not fit, and only there."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from diffkeeper.format.ids import Root
from diffkeeper.fsio import durable, linux
from diffkeeper.limits import GIB, KIB, MIB
from diffkeeper.replay import space_needed
from tests.support import disks
from tests.support.capture_rig import CaptureRig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def memory(base: Path, size: int) -> Iterator[Path]:
    """A file system in memory with so much room."""
    point = base / "memory"
    point.mkdir(exist_ok=True)
    options = ["-o", f"size={size}"]
    subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)


def never(digest: bytes) -> bytes:
    raise AssertionError(f"{digest.hex()} was read")


def fill(live: Path) -> None:
    """5 MiB and a little, in files of more than a GiB."""
    (live / "dense").write_bytes(os.urandom(3 * MIB))
    os.link(live / "dense", live / "other name")
    (live / "zeros").write_bytes(bytes(2 * MIB))
    with open(live / "holes", "wb") as file:
        file.truncate(GIB)
        file.seek(GIB // 2)
        file.write(b"x" * 20)
    (live / "directory").mkdir()
    for number in range(100):
        (live / "directory" / str(number)).write_bytes(b"y" * number)


def test_it_is_known_before_it_begins(tmp_path: Path) -> None:
    with CaptureRig(tmp_path) as rig:
        fill(rig.live)
        snapshot = rig.capture()
        root, get = snapshot.root, rig.store.node
        assert snapshot.bytes > GIB
        with memory(tmp_path, 4 * MIB) as small:
            least, free = space_needed.shortage(root, snapshot.bytes, get, str(small))
            assert least > free == durable.free_bytes_of_root(str(small))
        with memory(tmp_path, 6 * MIB) as enough:
            assert space_needed.shortage(root, snapshot.bytes, get, str(enough)) == (0, 0)
            assert space_needed.shortage(root, MIB, never, str(enough)) == (0, 0)


@pytest.mark.parametrize("kind", disks.KINDS)
def test_it_is_never_more_than_a_replay_takes(tmp_path: Path, kind: str) -> None:
    with disks.file_system(kind, tmp_path) as disk, CaptureRig(disk) as rig:
        fill(rig.live)
        with open(rig.live / "speckled", "wb") as file:
            for number in range(64):
                file.seek(number * 24 * KIB)
                file.write(os.urandom(5 * KIB))
        with open(rig.live / "end", "wb") as file:
            file.write(os.urandom(40 * KIB))
            file.truncate(40 * KIB + 4 * MIB)
        snapshot = rig.capture()
        made = rig.replay(snapshot, "made")
        sizes = {s.st_ino: s.st_blocks * 512 for s in map(os.lstat, made.rglob("*"))}
        least = sum(space_needed._sizes(snapshot.root, rig.store.node))
        assert 5 * MIB < least <= sum(sizes.values())


def test_nothing_is_known_of_what_compresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linux, "file_system_type", lambda _: 0x9123683E)
    with memory(tmp_path, MIB) as small:
        assert space_needed.shortage(Root(32), GIB, never, str(small)) == (0, 0)
