"""A disk that history filled is got back, without any room to begin with."""

from __future__ import annotations

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from diffkeeper.errors import NoSpaceError
from diffkeeper.format import chunk
from diffkeeper.hashing import chunk_digest
from diffkeeper.limits import MIB
from diffkeeper.space.maintenance import Maintenance
from diffkeeper.store import environment, page_check
from diffkeeper.store.batch import ObjectMap
from diffkeeper.store.store import Batch, Store
from tests.support import disks, history
from tests.support.stored import nodes_into

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DISK_BYTES = 96 * MIB


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    size = DISK_BYTES if request.param == "ext4" else 4 * DISK_BYTES
    with disks.file_system(request.param, tmp_path, size) as mount:
        yield mount


def garbage(store: Store, seed: int) -> None:
    """One mebibyte that no snapshot has."""
    source = random.Random(seed)
    plains = [source.randbytes(65536) for _ in range(16)]
    chunks = {chunk_digest(plain): chunk.encode(plain, None) for plain in plains}
    store.commit(Batch(chunks=ObjectMap(chunks)))


def free_bytes(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize


def test_collected_and_compacted_on_a_full_disk(disk: Path) -> None:
    store = Store.open(str(disk / "store"), reserve_bytes=0)
    states = dict(enumerate(history.states(4), 1))
    for seq, files in states.items():
        history.commit(store, seq, files)
    with pytest.raises(NoSpaceError):
        for seed in range(1000):
            garbage(store, seed)
    disks.fill(disk / "live")
    assert free_bytes(disk) < MIB
    held = store.file_bytes()
    Maintenance(store).run_all()
    assert store.used_bytes() < held // 4
    before, after = store.compact()
    assert before == held
    assert after < held // 4
    assert free_bytes(disk) > held // 2
    for seq, files in states.items():
        assert history.files_of(store, seq) == files
    store.close()
    assert page_check.check(str(disk / "store" / "data.mdb")) > 0


def test_holes_leave_what_is_in_use(disk: Path) -> None:
    """Commits go on above the holes, and find all that was there before."""
    path = str(disk / "store")
    store = Store.open(path, reserve_bytes=0)
    states = dict(enumerate(history.states(6), 1))
    for seq, files in states.items():
        for seed in range(4):
            garbage(store, 100 * seq + seed)
        history.commit(store, seq, files)
        Maintenance(store).run_all()
        held = store.file_bytes()
        assert store.give_back() > 0
        assert store.file_bytes() < held
        store.close()
        store = Store.open(path, reserve_bytes=0)
        for number in range(1, seq + 1):
            assert history.files_of(store, number) == states[number]
    store.close()


def test_others_have_their_turns_between_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may need very many holes, and each may take milliseconds."""
    monkeypatch.setattr(environment, "STORE_PUNCH_SECONDS", 0.0)
    store = Store.open(str(tmp_path / "store"), reserve_bytes=0)
    for seed in range(30):
        garbage(store, seed)
        history.commit(store, seed + 1, {b"kept": random.Random(seed).randbytes(70_000)})
    Maintenance(store).run_all()
    held = store.file_bytes()
    started = threading.Event()

    def give_back() -> int:
        started.set()
        return store.give_back()

    with ThreadPoolExecutor(1) as pool:
        given = pool.submit(give_back)
        started.wait()
        committed = 0
        while not given.done():
            store.commit(Batch(names_put={"name": committed + 1}))
            committed += 1
    assert given.result() > 0
    assert store.file_bytes() < held
    assert committed > 3
    store.close()


def test_the_ballast_lets_records_be_removed(tmp_path: Path) -> None:
    """To remove something takes pages first, more here than are kept past the end of the file."""
    names = {f"{'n' * 60}{number}": number for number in range(1, 40_000)}
    with disks.file_system("ext4", tmp_path, 512 * MIB) as disk:
        store = Store.open(str(disk / "store"), reserve_bytes=0)
        store.commit(Batch(names_put=names))
        disks.fill(disk / "live")
        assert free_bytes(disk) < MIB
        gone = set(list(names)[::10])
        store.commit(Batch(names_del=gone))
        assert store.volume_id(min(gone)) is None
        (disk / "live").unlink()
        store.close()
        Store.open(str(disk / "store"), reserve_bytes=0).close()
        assert (disk / "store" / "ballast").stat().st_size > 7 * MIB


def has_garbage(store: Store) -> bool:
    return store.repack.garbage


def fail_after_a_flush(store: Store) -> None:
    """A capture of which the rest does not fit."""
    with store.holding():
        objects = Batch()
        nodes_into(objects)(b"stored early")
        store.commit(objects)
        raise NoSpaceError("the rest does not fit")


def test_what_a_failed_capture_stored_is_garbage(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"), reserve_bytes=0)
    Maintenance(store).run_all()
    assert not has_garbage(store)
    with store.holding():
        garbage(store, 1)
    assert not has_garbage(store)
    with pytest.raises(NoSpaceError):
        fail_after_a_flush(store)
    assert has_garbage(store)
    store.close()
