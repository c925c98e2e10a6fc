"""A full disk: refused commits change nothing, and the store goes on when there is room again."""

from __future__ import annotations

import os
import random
import subprocess
from typing import TYPE_CHECKING

import pytest

from diffkeeper.errors import NoSpaceError
from diffkeeper.format import chunk
from diffkeeper.format.records import VolumeRecord
from diffkeeper.fsio.room import Share
from diffkeeper.hashing import chunk_digest
from diffkeeper.limits import MIB, STORE_SPARE_BYTES
from diffkeeper.store.batch import ObjectMap
from diffkeeper.store.store import Batch, Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WHOLE = Share(fraction=1.0)
BALLAST_BYTES = 12 * MIB


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MiB with a ballast file, whose removal makes room."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mount = tmp_path / "disk"
    mount.mkdir()
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(mount)]
    else:
        image = tmp_path / "image"
        image.touch()
        os.truncate(image, 40 * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        command = ["mount", "-o", "loop", str(image), str(mount)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small {request.param}: {mounted.stderr.strip()}")
    (mount / "ballast").write_bytes(random.Random(0).randbytes(BALLAST_BYTES))
    os.sync()
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True)


def plains_of(seed: int) -> list[bytes]:
    """One mebibyte that does not compress."""
    source = random.Random(seed)
    return [source.randbytes(65536) for _ in range(16)]


def batch_of(seed: int) -> Batch:
    chunks = {chunk_digest(p): chunk.encode(p, None) for p in plains_of(seed)}
    return Batch(chunks=ObjectMap(chunks), names_put={f"n{seed}": seed})


def take_all(disk: Path, piece: int) -> None:
    """Leave no room on the disk, but for less than `piece` bytes."""
    with open(disk / "filler", "wb", buffering=0) as filler:
        written = 1
        while written:
            try:
                written = filler.write(bytes(piece))
            except OSError:
                written = 0


def fill(store: Store) -> int:
    """Number of batches that were committed before there was no room."""
    for seed in range(60):
        try:
            store.commit(batch_of(seed))
        except NoSpaceError:
            return seed
    raise AssertionError("the disk never filled up")


def check(store: Store, batches: int) -> None:
    """Exactly the first `batches` are there, whole."""
    assert store.totals()["chunks"] == 16 * batches
    assert store.volume_id(f"n{batches}") is None
    for seed in range(batches):
        assert store.volume_id(f"n{seed}") == seed
        for plain in plains_of(seed):
            assert store.chunk(chunk_digest(plain)) == plain


@pytest.mark.parametrize("reserve_bytes", [0, 4 * MIB])
def test_full_and_free_again(disk: Path, reserve_bytes: int) -> None:
    path = str(disk / "store")
    store = Store.open(path, share=WHOLE, reserve_bytes=reserve_bytes)
    batches = fill(store)
    assert batches > 10
    check(store, batches)
    for _ in range(3):
        with pytest.raises(NoSpaceError):
            store.commit(batch_of(batches))
    free = os.statvfs(disk)
    assert free.f_bavail * free.f_frsize >= reserve_bytes
    if reserve_bytes:
        store.commit(Batch(volumes=[VolumeRecord(1, "kept", 1, mounts={"m": 1})]))
        assert store.volumes()[0].mounts == {"m": 1}
    (disk / "ballast").unlink()
    store.commit(batch_of(batches))
    check(store, batches + 1)
    store.close()
    store = Store.open(path, share=WHOLE, reserve_bytes=reserve_bytes)
    check(store, batches + 1)
    store.close()


def test_lmdb_s_own_error_is_no_space(disk: Path) -> None:
    """The disk fills up between the check and the write, as it does beside other writers."""
    # A reserve below zero lets every commit pass the check.
    store = Store.open(str(disk / "store"), share=WHOLE, reserve_bytes=-40 * MIB)
    store.commit(batch_of(0))
    with open(disk / "filler", "wb", buffering=0) as filler:
        free = os.statvfs(disk)
        os.posix_fallocate(filler.fileno(), 0, free.f_bavail * free.f_frsize - MIB // 2)
    batches, size = 1, 0
    with pytest.raises(NoSpaceError, match="no room left for"):
        for batches in range(1, 10):
            size = store.file_bytes()
            store.commit(batch_of(batches))
    # What the failed commit wrote is given back, but for the room kept for records.
    assert store.file_bytes() <= size + STORE_SPARE_BYTES
    check(store, batches)
    (disk / "filler").unlink()
    store.commit(batch_of(batches))
    check(store, batches + 1)
    store.close()


def test_records_have_room_on_a_full_disk(disk: Path) -> None:
    """Room past the last page is kept for them, from before the disk was full."""
    path = str(disk / "store")
    store = Store.open(path, reserve_bytes=0)
    store.commit(batch_of(0))
    take_all(disk, 4096)
    for round_ in range(3):
        for i in range(20):
            store.commit(Batch(volumes=[VolumeRecord(1, "kept", 1, mounts={"m": i})]))
        store.close()
        store = Store.open(path, reserve_bytes=0)
        assert store.volumes()[0].mounts == {"m": 19}, round_
    check(store, 1)
    store.close()


def test_a_store_opens_and_reads_on_a_full_disk(disk: Path) -> None:
    path = str(disk / "store")
    store = Store.open(path, reserve_bytes=0)
    store.commit(batch_of(0))
    store.close()
    take_all(disk, 65536)
    store = Store.open(path, reserve_bytes=0)
    check(store, 1)
    with pytest.raises(NoSpaceError):
        store.commit(batch_of(1))
    store.close()
    (disk / "filler").unlink()
    store = Store.open(path, reserve_bytes=0)
    store.commit(batch_of(1))
    check(store, 2)
    store.close()


def test_no_room_for_a_new_store(disk: Path) -> None:
    with open(disk / "filler", "wb", buffering=0) as filler:
        free = os.statvfs(disk)
        os.posix_fallocate(filler.fileno(), 0, free.f_bavail * free.f_frsize - 16384)
    with pytest.raises(NoSpaceError):
        Store.open(str(disk / "store"))
    (disk / "filler").unlink()
    Store.open(str(disk / "store")).close()
