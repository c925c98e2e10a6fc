"""Some paths of a snapshot, restored without reading the rest of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from diffkeeper.errors import NotFoundError
from diffkeeper.format.root import decode_root
from diffkeeper.fsio import tree
from diffkeeper.replay.object_source import StoreObjects
from diffkeeper.replay.replay import Replay
from diffkeeper.replay.selection import Selection, require
from diffkeeper.snapshot.policy import CapturePolicy
from tests.support.capture_rig import CaptureRig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from diffkeeper.replay.replay import Replayed

FILES = 2_000


class Counting(StoreObjects):
    """Counts what is asked for."""

    nodes_read = 0
    chunks_read = 0

    def nodes(self, digests: list[bytes]) -> list[bytes]:
        self.nodes_read += len(digests)
        return super().nodes(digests)

    def chunks(self, digests: list[bytes]) -> list[bytes]:
        self.chunks_read += len(digests)
        return super().chunks(digests)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[CaptureRig]:
    with CaptureRig(tmp_path, CapturePolicy(source="scan")) as made:
        wide = made.live / "base" / "wide"
        wide.mkdir(parents=True, mode=0o710)
        for number in range(FILES):
            (wide / f"{number}").write_bytes(b"%d" % number)
        (made.live / "base" / "inner" / "deep").mkdir(parents=True)
        (made.live / "base" / "inner" / "deep" / "file").write_bytes(b"deep")
        os.chown(made.live / "base", 12, 34)
        os.link(wide / "7", made.live / "hard")
        (made.live / "link").symlink_to("base")
        yield made


def restored(rig: CaptureRig, *paths: bytes) -> tuple[Path, Counting, Replayed]:
    objects = Counting(rig.store)
    target = rig.base / f"target-{len(list(rig.base.iterdir()))}"
    target.mkdir()
    fd = tree.open_without_links(str(target))
    try:
        replay = Replay(objects, fd, only=Selection.of(paths))
        return target, objects, replay.run(rig.capture().root)
    finally:
        os.close(fd)


def test_one_file_costs_what_it_takes_and_not_what_the_volume_has(rig: CaptureRig) -> None:
    target, objects, done = restored(rig, b"base/wide/1234")
    assert [path.relative_to(target).as_posix() for path in target.rglob("*")] == [
        "base", "base/wide", "base/wide/1234",
    ]  # fmt: skip
    assert (target / "base" / "wide" / "1234").read_bytes() == b"1234"
    assert objects.chunks_read == 1
    assert objects.nodes_read < 12, "a path through each tree"
    assert (done.files, done.bytes) == (1, 4)
    for name in ("base", "base/wide", "base/wide/1234"):
        ours, live = os.stat(target / name), os.stat(rig.live / name)
        assert (ours.st_uid, ours.st_gid, ours.st_mode) == (live.st_uid, live.st_gid, live.st_mode)
        assert ours.st_mtime_ns == live.st_mtime_ns


def test_directories_links_and_paths_within_others(rig: CaptureRig) -> None:
    paths = b"base/inner", b"hard", b"base/inner/deep/file", b"link", b"base/wide/7", b"base/inner"
    target, _, _ = restored(rig, *paths)
    assert sorted(path.relative_to(target).as_posix() for path in target.rglob("*")) == [
        "base", "base/inner", "base/inner/deep", "base/inner/deep/file", "base/wide",
        "base/wide/7", "hard", "link",
    ]  # fmt: skip
    assert (target / "base" / "inner" / "deep" / "file").read_bytes() == b"deep"
    assert (target / "link").readlink().as_posix() == "base"
    assert os.path.samefile(target / "hard", target / "base" / "wide" / "7")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (b"nothing", "'nothing' is not in the snapshot"),
        (b"base/nothing", "'base/nothing' is not"),
        (b"hard/below", "'hard' is no directory"),
        (b"link/wide", "'link' is no directory"),
    ],
)
def test_paths_that_are_not_there_are_named(rig: CaptureRig, path: bytes, told: str) -> None:
    objects = StoreObjects(rig.store)
    top, _ = decode_root(objects.nodes([rig.capture().root])[0])
    with pytest.raises(NotFoundError, match=told):
        require([b"base/wide/1", path], top.content, lambda digest: objects.nodes([digest])[0])
