"""Where objects are: no place is lost between threads, and one that was lost is given back."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from diffkeeper import failpoint
from diffkeeper.format import chunk, pack
from diffkeeper.format.ids import ObjectId
from diffkeeper.hashing import chunk_digest
from diffkeeper.integrity.scrub import Scrubber
from diffkeeper.snapshot.chunker import Chunker
from diffkeeper.space.maintenance import Maintenance
from diffkeeper.store import objects, repack, tables
from diffkeeper.store.batch import ObjectMap
from diffkeeper.store.store import Batch, Store
from tests.support import history

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from diffkeeper.store.transaction import Transaction

OBJECTS = 16_000
MERGED = 200  # in one transaction


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
def store(path: str) -> Iterator[Store]:
    opened = Store.open(path, reserve_bytes=0)
    yield opened
    opened.close()


@pytest.fixture
def many(store: Store) -> list[bytes]:
    """Digests of objects whose places are in memory alone."""
    batch = Batch(chunks=ObjectMap())
    for number in range(OBJECTS):
        plain = b"%d" % number
        batch.chunks[chunk_digest(plain)] = chunk.encode(plain, None)
    store.commit(batch)
    return list(batch.chunks)


@pytest.fixture
def preempted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has merged stands still for a moment once its turn is over."""
    hit = failpoint.hit

    def paused(name: str) -> None:
        if name == "merge.after_commit":
            time.sleep(0.002)
        hit(name)

    monkeypatch.setattr(failpoint, "hit", paused)


@pytest.mark.usefixtures("preempted")
def test_places_are_merged_by_many_threads(
    path: str, store: Store, many: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repack, "MERGE_OBJECTS", MERGED)
    begin = threading.Barrier(6)
    missing: list[set[bytes]] = []

    def merge() -> None:
        begin.wait()
        while len(store.objects.pack_index):
            store.repack.merge()

    def ask() -> None:
        begin.wait()
        while len(store.objects.pack_index):
            missing.append(store.missing(many[:2_000]))

    threads = [threading.Thread(target=each) for each in (merge, merge, merge, merge, ask, ask)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(missing)
    assert store.missing(many) == set()
    again = reopened(path, store)
    assert again.missing(many) == set()
    again.close()


def reopened(path: str, store: Store) -> Store:
    store.close()
    return Store.open(path, reserve_bytes=0)


def test_a_pack_is_not_swept_by_what_was_before_a_merge(store: Store, many: list[bytes]) -> None:
    """Places may leave memory for the table while somebody reads what the table was before."""
    calls = 0

    def lives(txn: Transaction, number: int, directory: pack.PackDirectory) -> list[int]:
        nonlocal calls
        calls += 1
        if calls == 1:
            merging = threading.Thread(target=merge_all)
            merging.start()
            merging.join()
        return store.repack.found_here(txn, number, directory)

    def merge_all() -> None:
        while not store.repack.merge():
            pass

    for number in store.repack.packs():
        calls = 0
        assert not store.repack.sweep(number, lives)
    assert store.missing(many) == set()


def lose(store: Store, digests: list[bytes]) -> None:
    """As an earlier release could."""
    with store._environment.write() as txn:
        for digest in digests:
            assert txn.delete(tables.PLACES, digest[: tables.PLACE_KEY_BYTES])
        txn.delete(tables.META, tables.META_PLACES_CHECKED)


def test_lost_places_are_given_back_before_anything_is_swept(path: str, store: Store) -> None:
    kept = dict(enumerate(history.states(6, chunks=60), 1))
    for seq in range(1, 5):
        history.commit(store, seq, kept[seq])
    Maintenance(store).run_all()
    lost = sorted(history.reachable(store))[::3]
    lose(store, lost)
    again = reopened(path, store)
    for seq in (5, 6):  # what comes next makes deltas of old versions, and sweeps their packs
        history.commit(again, seq, kept[seq])
    assert again.unknown(lost)
    reader = Chunker()
    scrubber = Scrubber(again, reader, list)
    report = Maintenance(again).run_all()
    assert report.damage == []
    assert again.unknown(lost) == set()
    scrubber.run_slice()  # the first pass is due at once
    assert scrubber.shown().under_way
    assert {seq: history.files_of(again, seq) for seq in kept} == kept
    assert again.pack_index_checked()
    assert not Scrubber(again, reader, list).shown().under_way
    reader.close()
    again.close()


def test_a_new_store_is_not_looked_through(store: Store) -> None:
    history.commit(store, 1, {b"a": b"1"})
    reader = Chunker()
    scrubber = Scrubber(store, reader, list)
    scrubber.run_slice()
    assert store.pack_index_checked()
    assert scrubber.shown().under_way is None
    reader.close()


def test_an_object_that_is_found_nowhere_is_never_swept(store: Store) -> None:
    history.commit(store, 1, {b"a": b"1" * 100, b"b": b"2" * 100})
    assert store.repack.merge()
    (number,) = store.repack.packs()
    wanted = chunk_digest(b"1" * 100)
    lose(store, [wanted])
    with store._environment.read() as txn:
        directory = store.objects.directory(txn, number)
        assert directory is not None
        assert len(store.repack.found_here(txn, number, directory)) == directory.objects
        assert store.objects.pack_index.find(txn, wanted) is None

    def newer(txn: Transaction) -> list[tuple[int, list[bytes]]]:
        """Another copy of the other one, so that the pack is worth sweeping."""
        builder = pack.Builder(1)
        builder.add(ObjectId.chunk(chunk_digest(b"2" * 100)), b"2" * 100)
        return store.objects.put(txn, objects.packed(builder.finish()))

    store.writer.commit(newer, 1_000, "replace")
    assert not store.repack.sweep(number, store.repack.found_here)
    assert number in store.repack.packs()
    lose(store, [])
    for _ in store.repack.restore_pack_index():
        pass
    assert store.chunk(wanted) == b"1" * 100


def test_nothing_is_absent_because_it_moves(store: Store, many: list[bytes]) -> None:
    """A scrub asks while places leave memory for the table, and would call it lost."""

    class Merging(set[int]):
        """Asked for each object that is found; everything is merged at the first."""

        merged = False

        def __contains__(self, _number: object) -> bool:
            if not self.merged:
                self.merged = True
                merging = threading.Thread(target=merge_all)
                merging.start()
                merging.join()
            return False

    def merge_all() -> None:
        while not store.repack.merge():
            pass

    assert store.healer.absent(many[:3], Merging()) == set()
    absent = chunk_digest(b"absent")
    assert store.healer.absent([absent, many[0]], set()) == {absent}
