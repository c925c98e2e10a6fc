"""What a commit writes is what is read, once, in order, and by any thread."""

from __future__ import annotations

import os
import random
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from diffkeeper import failpoint
from diffkeeper.errors import (
    BusyError,
    ConflictError,
    CorruptionError,
    InvalidInputError,
    NoSpaceError,
    NotFoundError,
)
from diffkeeper.format import chunk
from diffkeeper.format.ids import ObjectId, Root, SnapshotId
from diffkeeper.format.records import IndexRecord, SnapshotRecord, VolumeRecord
from diffkeeper.fsio.room import Levels, Room
from diffkeeper.hashing import DIGEST_BYTES, chunk_digest, node_digest
from diffkeeper.limits import MIB, STORE_PAGE_RECORDS_MAX
from diffkeeper.store.batch import ObjectMap
from diffkeeper.store.lru import Lru
from diffkeeper.store.store import Batch, Store
from tests.support.stored import nodes_into, signatures

if TYPE_CHECKING:
    from pathlib import Path


def with_chunks(*plains: bytes) -> Batch:
    return Batch(chunks=ObjectMap({chunk_digest(p): chunk.encode(p) for p in plains}))


def snapshot(volume_id: int, seq: int, consistency: str = "crash") -> SnapshotRecord:
    return SnapshotRecord(
        volume_id, seq, seq - 1 or None, Root(32), 1, consistency, "manual", 1, 2, 3, 4, 0.5, 1.5
    )


def test_objects_come_back(store: Store) -> None:
    batch = with_chunks(b"one", bytes(65536))
    digest = nodes_into(batch)(b"\1\1node")
    assert batch.size == sum(map(len, (*batch.chunks.values(), *batch.nodes.values())))
    store.commit(batch)
    assert store.chunk(chunk_digest(b"one")) == b"one"
    assert store.chunk(chunk_digest(bytes(65536))) == bytes(65536)
    assert store.node(digest) == store.node(digest) == b"\1\1node"
    assert store.stored(ObjectId.chunk(chunk_digest(b"one"))) == chunk.encode(b"one")
    assert store.stored(ObjectId.node(digest)) == batch.nodes[digest]
    for read in (store.chunk, store.node, store.objects.identify):
        with pytest.raises(NotFoundError):
            read(chunk_digest(b"absent"))
    assert store.objects.identify(digest) == ObjectId.node(digest)
    for absent_id in (ObjectId.chunk(chunk_digest(b"absent")), ObjectId.chunk(digest)):
        with pytest.raises(NotFoundError):
            store.stored(absent_id)
    absent = {chunk_digest(b"absent"), chunk_digest(b"too")}
    assert store.missing([*absent, chunk_digest(b"one"), chunk.HOLE]) == absent


def test_known_objects_count_once(store: Store) -> None:
    store.commit(with_chunks(b"one", b"two!"))
    before = store.totals()
    assert (before["chunks"], before["chunk_plain_bytes"]) == (2, 7)
    assert before["stored_bytes"] > 7 + 2 * DIGEST_BYTES
    store.commit(with_chunks(b"one", b"two!"))
    assert store.totals() == before
    store.commit(with_chunks(b"one", b"three"))
    assert store.totals()["chunks"] == 3


def test_damaged_objects_are_corruption(store: Store) -> None:
    key, other = chunk_digest(b"one"), chunk_digest(b"two")
    store.commit(
        Batch(chunks=ObjectMap({key: chunk.encode(b"eno"), other: chunk.encode(b"two")[:-1]}))
    )
    store.commit(Batch(nodes=ObjectMap({node_digest(b"n"): chunk.encode(b"m")})))
    with pytest.raises(CorruptionError, match=key.hex()):
        store.chunk(key)
    with pytest.raises(CorruptionError):
        store.chunk(other)
    for _ in range(2):  # a damaged node must not enter the cache either
        with pytest.raises(CorruptionError):
            store.node(node_digest(b"n"))


@pytest.mark.parametrize("key", [b"short", chunk.HOLE])
def test_keys_are_digests(store: Store, key: bytes) -> None:
    with pytest.raises(InvalidInputError):
        store.commit(Batch(chunks=ObjectMap({key: chunk.encode(b"x")})))
    assert store.totals()["chunks"] == 0


def test_snapshots_in_both_directions_and_pages(store: Store) -> None:
    many = STORE_PAGE_RECORDS_MAX + 10
    store.commit(Batch(snapshots=[snapshot(7, seq) for seq in range(1, many + 1)]))
    store.commit(Batch(snapshots=[snapshot(6, 1), snapshot(8, 1), snapshot(1 << 40, 1)]))
    assert [s.seq for s in store.snapshots(7)] == list(range(1, many + 1))
    assert [s.seq for s in store.snapshots(7, reverse=True)] == list(range(many, 0, -1))
    assert [s.seq for s in store.snapshots(7, 3, 6)] == [3, 4, 5]
    assert [s.seq for s in store.snapshots(7, 3, 6, reverse=True)] == [5, 4, 3]
    assert [s.seq for s in store.snapshots(1 << 40)] == [1]
    assert list(store.snapshots(9)) == []
    assert store.snapshot(7, 9) == snapshot(7, 9)
    with pytest.raises(NotFoundError):
        store.snapshot(7, many + 1)


def test_a_commit_during_an_iteration_does_not_block(store: Store) -> None:
    store.commit(Batch(snapshots=[snapshot(1, 1), snapshot(1, 2)]))
    for found in store.snapshots(1):
        store.commit(with_chunks(b"%d" % found.seq))


def test_the_newest_crash_snapshot(store: Store) -> None:
    assert store.newest_crash(1) is None
    store.commit(Batch(snapshots=[snapshot(1, 1), snapshot(1, 2), snapshot(1, 3, "fuzzy")]))
    newest = store.newest_crash(1)
    assert newest is not None
    assert newest.seq == 2


def test_a_snapshot_is_never_replaced(store: Store) -> None:
    store.commit(Batch(snapshots=[snapshot(1, 1)]))
    batch = with_chunks(b"new")
    batch.snapshots.append(snapshot(1, 1, "fuzzy"))
    with pytest.raises(ConflictError):
        store.commit(batch)
    assert store.snapshot(1, 1).consistency == "crash"
    assert store.totals()["chunks"] == 0


def test_tags_name_stored_snapshots_and_never_move(store: Store) -> None:
    store.commit(Batch(snapshots=[snapshot(1, 1), snapshot(1, 2), snapshot(2, 1)]))
    store.commit(Batch(tags_put={(1, "a"): 1, (1, "aä"): 2, (2, "a"): 1}))
    store.commit(Batch(tags_put={(1, "a"): 1}))
    with pytest.raises(ConflictError, match="names snapshot 1"):
        store.commit(Batch(tags_put={(1, "a"): 2}))
    with pytest.raises(NotFoundError, match="no snapshot 3"):
        store.commit(Batch(tags_put={(1, "c"): 3}))
    with pytest.raises(NotFoundError):
        store.commit(Batch(tags_put={(1, "c"): 2}, snapshots_del={SnapshotId(1, 2)}))
    assert store.tags(1) == {"a": 1, "aä": 2}
    assert list(store.all_tags()) == [(1, "a", 1), (1, "aä", 2), (2, "a", 1)]
    store.commit(Batch(tags_put={(1, "a"): 2}, tags_del={(1, "a")}))
    assert store.tags(1) == {"a": 2, "aä": 2}


def test_deletions(store: Store) -> None:
    records = [VolumeRecord(store.next_volume_id(), f"v{i}", 1) for i in (1, 2)]
    store.commit(Batch(volumes=records, snapshots=[snapshot(1, s) for s in (1, 2, 3)]))
    gone = {SnapshotId(*each) for each in ((1, 1), (1, 3), (1, 9), (2, 1))}
    deleting = Batch(snapshots_del=gone, volumes_del={2, 7})
    assert deleting.records_only, "it needs no room"
    store.commit(deleting)
    assert [s.seq for s in store.snapshots(1)] == [2]
    ranges = ((), (3,), (0, 2), (2, 3))
    assert [store.snapshot_count(1, *bounds) for bounds in ranges] == [1, 0, 0, 1]
    assert [r.id for r in store.volumes()] == [1]
    assert store.next_volume_id() == 3, "an id is never given out again"


def test_volumes_and_names(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    store = Store.open(path)
    first, second = store.next_volume_id(), store.next_volume_id()
    assert (first, second) == (1, 2)
    one = VolumeRecord(first, "pg", 5, {"interval": "1s"}, mounts={"a": 2})
    store.commit(Batch(volumes=[one, VolumeRecord(second, "q", 6)], names_put={"pg": 1, "q": 2}))
    store.close()
    store = Store.open(path)
    assert store.volumes() == [one, VolumeRecord(second, "q", 6)]
    assert store.volume_id("pg") == first
    store.commit(Batch(names_del={"pg"}, names_put={"r": 2}))
    assert (store.volume_id("pg"), store.volume_id("r")) == (None, 2)
    assert store.next_volume_id() == 3
    store.close()


def test_the_index(store: Store) -> None:
    record = IndexRecord(1, 2, 3, 4, 5, name=b"raw\xff")
    many = range(1, STORE_PAGE_RECORDS_MAX + 50)
    raw = record.encode()
    store.commit(Batch(index_put={(v, ino): raw for v in (1, 2, 3) for ino in many}))
    assert store.index(2, 1) == record
    assert store.index(2, 10**9) is None
    assert store.index_many(2, [1, 2, 10**9]) == {1: record, 2: record}
    store.commit(Batch(index_del={(2, 1), (2, 10**9)}))
    assert [ino for ino, _ in signatures(store, 2)] == list(many)[1:]
    store.commit(Batch(drop_index={2}, index_put={(2, 7): raw}))
    assert list(signatures(store, 2)) == [(7, record)]
    assert [ino for ino, _ in signatures(store, 1)] == list(many)
    assert [ino for ino, _ in signatures(store, 3)] == list(many)
    store.commit(Batch(drop_index={3, 9}))
    assert list(signatures(store, 3)) == []


def test_the_map_grows_while_others_read(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"), reserve_bytes=0, map_bytes=1 << 20)
    store.commit(with_chunks(b"known"))
    stop, failures, reads = threading.Event(), [], 0

    def read() -> None:
        nonlocal reads
        while not stop.is_set():
            if store.chunk(chunk_digest(b"known")) != b"known":
                failures.append("content")
            reads += 1
            stop.wait(0.0002)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    source = random.Random(3)
    written = [source.randbytes(65536) for _ in range(160)]
    for start in range(0, len(written), 40):
        store.commit(with_chunks(*written[start : start + 40]))
    stop.set()
    for reader in readers:
        reader.join()
    assert not failures
    assert reads > 0
    assert store._environment.map_bytes() > 8 << 20
    for plain in written:
        assert store.chunk(chunk_digest(plain)) == plain
    store.close()


def test_threads_commit_at_once(store: Store) -> None:
    def work(volume_id: int) -> None:
        for seq in range(1, 20):
            batch = with_chunks(b"%d-%d" % (volume_id, seq))
            batch.snapshots.append(snapshot(volume_id, seq))
            store.commit(batch)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.totals()["chunks"] == 4 * 19
    assert all(len(list(store.snapshots(i))) == 19 for i in range(4))


def test_an_error_before_the_commit_undoes_it(store: Store) -> None:
    failpoint.arm("store.before_commit=error")
    batch = with_chunks(b"one")
    batch.snapshots.append(snapshot(1, 1))
    with pytest.raises(failpoint.FailpointError):
        store.commit(batch)
    assert store.totals()["chunks"] == 0
    assert list(store.snapshots(1)) == []
    store.commit(batch)
    assert store.chunk(chunk_digest(b"one")) == b"one"


def test_objects_flushed_is_passed_by_objects_alone(store: Store) -> None:
    failpoint.arm("store.objects_flushed=error")
    batch = with_chunks(b"one")
    batch.snapshots.append(snapshot(1, 1))
    store.commit(batch)
    with pytest.raises(failpoint.FailpointError):
        store.commit(with_chunks(b"two"))
    assert store.chunk(chunk_digest(b"two")) == b"two"


def test_the_reserve_is_for_records(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"), reserve_bytes=1 << 60)
    with pytest.raises(NoSpaceError, match="kept in reserve"):
        store.commit(with_chunks(b"one"))
    store.commit(Batch(volumes=[VolumeRecord(1, "pg", 5)]))
    assert [v.name for v in store.volumes()] == ["pg"]
    store.close()


def test_figures(store: Store) -> None:
    empty = store.used_bytes()
    store.commit(with_chunks(random.Random(4).randbytes(1 << 20)))
    assert empty + (1 << 20) <= store.used_bytes() <= store.file_bytes()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    store.close()
    store.close()
    with pytest.raises(BusyError):
        store.volumes()
    with pytest.raises(BusyError):
        store.commit(Batch(names_put={"a": 1}))


def test_only_root_looks_inside(tmp_path: Path) -> None:
    Store.open(str(tmp_path / "store")).close()
    assert stat.S_IMODE(os.stat(tmp_path / "store").st_mode) == 0o700
    for name in ("data.mdb", "lock.mdb", "lock"):
        assert stat.S_IMODE(os.stat(tmp_path / "store" / name).st_mode) == 0o600


def test_the_cache_is_bounded() -> None:
    cache: Lru[bytes, bytes] = Lru(entries_max=3, weight_max=100)
    for i in range(4):
        cache.put(b"%d" % i, b"n")
    assert cache.get(b"0") is None
    assert cache.get(b"1") == b"n"
    cache.put(b"big", bytes(99), 99)
    assert cache.get(b"2") is None
    assert cache.get(b"1") == b"n"
    cache.put(b"huge", bytes(101), 101)
    assert cache.get(b"huge") is None


def test_a_batch_knows_its_size() -> None:
    batch = Batch(chunks={b"a": b"12"})
    batch.chunks[b"a"] = b"123"
    batch.chunks[b"b"] = b"1"
    batch.nodes.update({b"c": b"12345"})
    assert batch.size == 9
    del batch.chunks[b"a"]
    assert batch.size == 6


def test_a_refused_snapshot_asks_for_room(tmp_path: Path) -> None:
    """Though it is far from its bound, history gives up what the snapshot needs beyond that."""
    room = Room(str(tmp_path), 1000 * MIB, 100 * MIB, 0)
    levels = Levels(used=70 * MIB, held=70 * MIB, free=900 * MIB)
    assert room.excess(levels) == 0
    assert "store-max" in room.refusal(levels, 40 * MIB)
    room.refused = 40 * MIB
    assert room.excess(levels) == 30 * MIB
    room.refused = 1000 * MIB
    assert room.excess(levels) == 40 * MIB
