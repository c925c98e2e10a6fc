"""Maintenance: history gets thin, garbage goes, what anybody relies on stays."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from typing import TYPE_CHECKING

import lmdb
import pytest

from diffkeeper import limits
from diffkeeper.errors import CorruptionError, NotFoundError
from diffkeeper.format import chunk, pack
from diffkeeper.format.ids import ObjectId
from diffkeeper.format.records import IndexRecord, VolumeRecord
from diffkeeper.hashing import chunk_digest
from diffkeeper.integrity.scrub import Scrubber
from diffkeeper.snapshot.chunker import Chunker
from diffkeeper.space.maintenance import Maintenance
from diffkeeper.store import repack, tables
from diffkeeper.store.batch import ObjectMap
from diffkeeper.store.pack_index import pack_of, slot_of
from diffkeeper.store.store import Batch, Store
from tests.support import history
from tests.support.stored import signatures, thread_written_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from diffkeeper.store.environment import Copy
    from diffkeeper.store.transaction import Transaction

STATES = 9


@pytest.fixture
def kept(store: Store) -> dict[int, history.Files]:
    """All states of a store with a history, by sequence number."""
    found = dict(enumerate(history.states(STATES), 1))
    for seq, files in found.items():
        history.commit(store, seq, files)
    return found


def stored(store: Store) -> list[bytes]:
    """Digests of all objects in packs, once for each copy."""
    found: list[bytes] = []
    with store._environment.read() as txn:
        for number in store.repack.packs():
            directory = store.objects.directory(txn, number)
            assert directory is not None
            found += directory.digests()
    return found


def place_of(store: Store, digest: bytes) -> int:
    with store._environment.read() as txn:
        at = store.objects.pack_index.find(txn, digest)
    assert at is not None
    return at


def damage(path: str, store: Store, digest: bytes) -> None:
    """Spoil the frame that holds an object; the store is closed by it."""
    at = place_of(store, digest)
    with store._environment.read() as txn:
        raw = txn.get(tables.PACKS, tables.id_key(pack_of(at)))
        assert raw is not None
        directory = pack.PackDirectory(raw)
        start = directory._frames[directory.frame(slot_of(at))][1]
        changed = bytearray(raw)
    store.close()
    changed[start + 1] ^= 0xFF  # zstd's magic number
    with lmdb.open(path, max_dbs=32) as env, env.begin(write=True) as txn:
        packs = env.open_db(tables.PACKS.database, txn=txn)
        txn.put(tables.id_key(pack_of(at)), bytes(changed), db=packs)


def test_history_gets_thin_and_stays_whole(store: Store, kept: dict[int, history.Files]) -> None:
    before = store.totals()
    report = Maintenance(store).run_all()
    assert report.deltas > 150
    assert store.totals()["stored_bytes"] < 0.8 * before["stored_bytes"]
    assert {seq: history.files_of(store, seq) for seq in kept} == kept
    assert len(store.objects.pack_index) == 0
    path = store._environment.path
    store.close()
    again = Store.open(path)
    assert {seq: history.files_of(again, seq) for seq in kept} == kept
    # Nothing is due: nothing is done.
    assert Maintenance(again).run_all().versions == 0
    again.close()


def test_the_newest_is_whole(store: Store, kept: dict[int, history.Files]) -> None:
    Maintenance(store).run_all()
    large = kept[STATES][b"large"]
    for at in range(0, len(large), history.CHUNK):
        assert store.objects.home(chunk_digest(large[at : at + history.CHUNK])) is not None


def test_what_comes_back_makes_no_circle(store: Store) -> None:
    source = random.Random(3)
    base = history.page(source)
    versions = [base[:9] + bytes([n]) + base[10:] for n in range(3)]
    maintenance = Maintenance(store)
    seen: dict[int, history.Files] = {}
    for seq in range(1, 25):
        seen[seq] = {b"f": versions[source.randrange(3)], b"seq": b"%d" % seq}
        history.commit(store, seq, seen[seq])
        if source.random() < 0.5:
            maintenance.run_all()
    maintenance.run_all()
    assert {seq: history.files_of(store, seq) for seq in seen} == seen


def test_collection_is_exact(store: Store, kept: dict[int, history.Files]) -> None:
    maintenance = Maintenance(store)
    history.forget(store, 1, 2, 5, 8)
    assert maintenance.run_all().collected == 1
    left = {seq: kept[seq] for seq in (3, 4, 6, 7, 9)}
    assert {seq: history.files_of(store, seq) for seq in left} == left
    history.forget(store, 3, 4, 6, 7)
    maintenance.run_all()
    assert history.files_of(store, STATES) == kept[STATES]
    # What dead objects are left in packs is within the bound; what lives is there once.
    alive, copies = history.reachable(store), stored(store)
    assert alive <= set(copies)
    assert len(copies) <= len(alive) / (1 - repack.PACK_DEAD_FRACTION_MAX)
    with pytest.raises(NotFoundError):
        store.snapshot(1, 3)


def test_a_store_under_constant_change_has_a_constant_size(store: Store) -> None:
    maintenance = Maintenance(store)
    sizes: list[int] = []
    for seq, files in enumerate(history.states(60), 1):
        history.commit(store, seq, files)
        if seq > 10:
            history.forget(store, seq - 10)
        if seq % 5 == 0:
            maintenance.run_all()
            sizes.append(store.totals()["stored_bytes"])
    assert max(sizes[6:]) < 1.25 * min(sizes[3:])
    assert store.file_bytes() < 4 * store.used_bytes() + 4 * limits.MIB


def run(steps: Iterator[None]) -> None:
    for _ in steps:
        pass


def orphan(store: Store, content: bytes) -> bytes:
    """A chunk that no snapshot has."""
    digest = chunk_digest(content)
    store.commit(Batch(chunks=ObjectMap({digest: chunk.encode(content)})))
    return digest


def test_what_is_relied_on_stays(store: Store, kept: dict[int, history.Files]) -> None:
    relied, other = orphan(store, b"relied on"), orphan(store, b"not relied on")
    steps = store.collector().steps()
    next(steps)
    assert store.missing([relied, chunk_digest(b"absent")]) == {chunk_digest(b"absent")}
    late = orphan(store, b"stored while it runs")
    run(steps)
    assert store.missing([relied, other, late]) == {other}
    run(store.collector().steps())
    assert store.missing([relied, late]) == {relied, late}
    assert history.files_of(store, 4) == kept[4]


def test_the_sweep_waits_for_who_holds(store: Store, kept: dict[int, history.Files]) -> None:
    digest = orphan(store, b"asked for before")
    with store.holding():
        assert not store.missing([digest])
        steps = store.collector().steps()
        for _ in range(200):
            next(steps)
        assert not store.missing([digest])
    run(steps)
    run(store.collector().steps())
    assert store.missing([digest]) == {digest}
    assert len(kept) == STATES


def test_snapshots_stored_while_it_runs_are_marked(
    store: Store, kept: dict[int, history.Files]
) -> None:
    steps = store.collector().steps()
    next(steps)
    more = dict(enumerate(history.states(STATES + 3), 1))
    for seq in range(STATES + 1, STATES + 4):
        history.commit(store, seq, more[seq])
        history.forget(store, seq - 1)
        next(steps, None)
    run(steps)
    assert history.files_of(store, STATES + 3) == more[STATES + 3]
    assert history.files_of(store, 1) == kept[1]


def test_signatures_of_what_is_gone_go(store: Store, kept: dict[int, history.Files]) -> None:
    gone, there = orphan(store, b"gone"), chunk_digest(b"x")
    records = {
        ino: IndexRecord(1, 1, 1, 1, 1, content=content, name=b"n")
        for ino, content in ((1, gone), (2, there))
    }
    store.commit(Batch(index_put={(1, ino): record.encode() for ino, record in records.items()}))
    run(store.collector().steps())
    assert dict(signatures(store, 1)) == {2: records[2]}
    assert len(kept) == STATES


def test_a_signature_of_a_node_that_is_only_a_base_goes(store: Store) -> None:
    """What that node refers to goes, so no capture may build on it."""
    source = random.Random(8)
    versions = [source.randbytes(40 * history.CHUNK) for _ in range(2)]
    for seq, content in enumerate(versions, 1):
        history.commit(store, seq, {b"f": content})
    node, base = (history.content_of(store, seq, b"f") for seq in (1, 2))
    builder = pack.Builder(1)
    delta = pack.xor(store.node(node), store.node(base))
    builder.add_delta(ObjectId.node(node), delta, base)
    store.repack.replace(builder.finish(), None)
    record = IndexRecord(1, 1, 1, 40 * history.CHUNK, 1, content=base, name=b"f")
    store.commit(Batch(index_put={(1, 7): record.encode()}))
    history.forget(store, 2)
    run(store.collector().steps())
    assert history.files_of(store, 1) == {b"f": versions[0]}
    assert store.missing([chunk_digest(versions[1][: history.CHUNK])]), "it is gone"
    assert dict(signatures(store, 1)) == {}


def test_captures_and_readers_beside_maintenance(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits, reads, maintenance and scrubs at once: every state that is kept stays readable."""
    monkeypatch.setattr(repack, "MERGE_OBJECTS", 50)
    monkeypatch.setattr("diffkeeper.store.store.RECENT_OBJECTS_MAX", 200)
    maintenance = Maintenance(store)
    reader = Chunker()
    scrubber = Scrubber(store, reader, list)
    stop = threading.Event()
    failures: list[BaseException] = []
    kept: dict[int, history.Files] = {}

    def repeat(act: Callable[[], object]) -> None:
        try:
            while not stop.is_set():
                act()
        except BaseException as error:
            failures.append(error)

    def maintain() -> None:
        assert maintenance.run_all().damage == []

    def read() -> None:
        for seq in list(kept)[-3:]:
            assert history.files_of(store, seq) == kept[seq]

    def scrub() -> None:
        assert scrubber.run_all().damaged_objects == 0

    threads = [threading.Thread(target=repeat, args=(f,)) for f in (maintain, read, scrub)]
    for thread in threads:
        thread.start()
    for seq, files in enumerate(history.states(40, chunks=100), 1):
        history.commit(store, seq, files)
        kept[seq] = files
        if seq > 8:
            history.forget(store, seq - 8)
    stop.set()
    for thread in threads:
        thread.join()
    reader.close()
    assert not failures, failures
    for seq in range(33, 41):
        assert history.files_of(store, seq) == kept[seq]


def test_a_base_that_moves_while_its_delta_is_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is at its new place, which the reader's transaction does not have yet."""
    below = random.Random(5).randbytes(history.CHUNK)
    above = b"changed" + below[7:]
    digest, base = chunk_digest(above), chunk_digest(below)

    def whole(content: bytes) -> pack.Builder:
        builder = pack.Builder(1)
        builder.add(ObjectId.chunk(chunk_digest(content)), content)
        return builder

    store.repack.replace(whole(below).finish(), None)
    builder = pack.Builder(1)
    builder.add_delta(ObjectId.chunk(digest), pack.xor(above, below), base)
    store.repack.replace(builder.finish(), None)
    piece = store.objects._piece
    moved: list[int] = []

    def move_and_read(txn: Transaction, at: int) -> bytes:
        if not moved:
            moved.append(place_of(store, base))
            mover = threading.Thread(
                target=store.repack.replace, args=(whole(below).finish(), None)
            )
            mover.start()
            mover.join()
        return piece(txn, at)

    monkeypatch.setattr(store.objects, "_piece", move_and_read)
    assert store.chunk(digest) == above
    assert place_of(store, base) != moved[0]


def test_a_delta_without_its_base_is_an_error(store: Store) -> None:
    below = random.Random(6).randbytes(history.CHUNK)
    above = b"changed" + below[7:]
    builder = pack.Builder(1)
    base = chunk_digest(below)
    above_id = ObjectId.chunk(chunk_digest(above))
    builder.add_delta(above_id, pack.xor(above, below), base)
    store.repack.replace(builder.finish(), None)
    with pytest.raises(CorruptionError, match=f"its base {base.hex()} is not in the store"):
        store.chunk(chunk_digest(above))


def test_a_dead_delta_whose_base_was_collected_is_not_there(store: Store) -> None:
    """It may stay in a pack with much that lives; what comes back to its content stores it anew."""
    source = random.Random(9)
    alive = [source.randbytes(history.CHUNK) for _ in range(20)]
    history.commit(store, 1, {b"alive": b"".join(alive)})
    below = source.randbytes(history.CHUNK)
    above = b"changed" + below[7:]
    digest = chunk_digest(above)
    base = orphan(store, below)
    builder = pack.Builder(1)
    for content in alive:
        builder.add(ObjectId.chunk(chunk_digest(content)), content)
    builder.add_delta(ObjectId.chunk(digest), pack.xor(above, below), base)
    store.repack.replace(builder.finish(), None)
    assert store.chunk(digest) == above
    run(store.collector().steps())
    assert digest in stored(store), "its pack has too much that lives"
    assert store.missing([base, digest]) == {base, digest}
    history.commit(store, 2, {b"alive": b"".join(alive), b"again": above})
    assert history.files_of(store, 2)[b"again"] == above
    collector = store.collector()
    run(collector.steps())
    assert not collector.damage
    assert history.files_of(store, 2)[b"again"] == above


def test_an_older_copy_is_found_after_places_are_merged(store: Store) -> None:
    """The newest copy went while nothing needed it; what came back since relies on the older."""
    content = random.Random(11).randbytes(history.CHUNK)
    digest = orphan(store, content)
    assert store.repack.merge()
    builder = pack.Builder(1)
    builder.add(ObjectId.chunk(digest), content)
    store.repack.replace(builder.finish(), None)
    newest = pack_of(place_of(store, digest))
    assert store.repack.sweep(newest, lambda *_: [])
    assert not store.missing([digest])
    history.commit(store, 1, {b"f": content})
    while not store.repack.merge():
        pass
    run(iter([None for _ in store.repack.prune_pack_index()]))
    assert history.files_of(store, 1) == {b"f": content}


def test_states_that_come_back_while_history_goes(store: Store) -> None:
    """Few states of many pages, of which old ones return; collections run beside, step by step."""
    source = random.Random(4)
    pages = [[source.randbytes(history.CHUNK) for _ in range(4)] for _ in range(12)]
    maintenance = Maintenance(store)
    kept: dict[int, history.Files] = {}
    for seq in range(1, 160):
        for versions in pages:
            versions.append(versions.pop(0) if source.random() < 0.2 else versions.pop())
        files = {b"%d" % number: versions[0] for number, versions in enumerate(pages)}
        history.commit(store, seq, files)
        kept[seq] = files
        for old in [each for each in kept if each < seq - 3 and source.random() < 0.5]:
            history.forget(store, old)
            del kept[old]
        if seq % 4 == 0:
            assert maintenance.run_all().damage == []
    assert {seq: history.files_of(store, seq) for seq in kept} == kept


def test_a_damaged_base_is_named_and_harms_no_neighbour(
    store: Store, kept: dict[int, history.Files]
) -> None:
    Maintenance(store).run_all()
    path = store._environment.path
    large = kept[1][b"large"]
    size = history.CHUNK
    olds = [chunk_digest(large[at : at + size]) for at in range(0, len(large), size)]
    delta = next(digest for digest in olds if store.objects.home(digest) is None)
    at = place_of(store, delta)
    with store._environment.read() as txn:
        directory = store.objects.directory(txn, pack_of(at))
        assert directory is not None
        base = directory.base_digest(slot_of(at))
    while base is not None and store.objects.home(base) is None:
        at = place_of(store, base)
        with store._environment.read() as txn:
            directory = store.objects.directory(txn, pack_of(at))
            assert directory is not None
            base = directory.base_digest(slot_of(at))
    assert base is not None
    whole = pack_of(place_of(store, base))
    damage(path, store, base)
    again = Store.open(path)
    with pytest.raises(CorruptionError, match=f"pack {whole}|{base.hex()}"):
        again.chunk(delta)
    readable = 0
    for digest in olds:
        try:
            again.chunk(digest)
            readable += 1
        except CorruptionError:
            pass
    assert readable > 0
    # What damage hides is not known, so that what is left stays.
    Maintenance(again).run_all()
    assert [record.seq for record in again.snapshots(1)] == list(kept)
    again.close()


def test_objects_of_an_older_format_are_carried_over(tmp_path: Path) -> None:
    path = str(tmp_path / "old")
    store = Store.open(path)
    files = next(iter(history.states(1)))
    history.commit(store, 1, files)
    ids = {d: store.objects.identify(d) for d in history.reachable(store)}
    objects = {d: (store.stored(each), each) for d, each in ids.items()}
    store.close()
    with lmdb.open(path, max_dbs=32) as env, env.begin(write=True) as txn:
        opened = {t.name: env.open_db(t.database, txn=txn) for t in tables.TABLES}
        for raw, (kind, digest) in objects.values():
            txn.put(digest, raw, db=opened[tables.SINGLES[kind].name])
        for table in (tables.PACKS, tables.PLACES, tables.TAGS, tables.PROGRESS):
            txn.drop(opened[table.name], delete=True)
        txn.drop(opened["totals"], delete=False)
        txn.put(tables.META_FORMAT, tables.pack_u64(2), db=opened["meta"])
        txn.delete(tables.META_PLACES_UPTO, db=opened["meta"])
    old = Store.open(path)
    assert history.files_of(old, 1) == files
    assert old.missing(list(objects)) == set()
    Maintenance(old).run_all()
    assert history.files_of(old, 1) == files
    with old._environment.read() as txn:
        assert txn.pages(tables.CHUNKS) == txn.pages(tables.NODES) == 0
    assert set(stored(old)) == set(objects)
    old.close()


def test_compacting_gives_room_back(store: Store, kept: dict[int, history.Files]) -> None:
    maintenance = Maintenance(store)
    maintenance.run_all()
    history.forget(store, *range(1, STATES))
    maintenance.run_all()
    before, after = store.compact()
    assert after < before
    assert after == store.file_bytes() <= store.used_bytes() + 2 * limits.STORE_SPARE_BYTES
    assert history.files_of(store, STATES) == kept[STATES]
    history.commit(store, STATES + 1, kept[3])
    path = store._environment.path
    assert sorted(os.listdir(path)) == ["ballast", "data.mdb", "lock", "lock.mdb"]
    store.close()
    again = Store.open(path)
    assert history.files_of(again, STATES + 1) == kept[3]
    again.close()


def test_records_are_written_while_it_is_compacted(
    store: Store, kept: dict[int, history.Files], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who the engine waits for does not wait for the copy, which is made anew; captures do."""
    history.forget(store, 1, 2, 3)
    Maintenance(store).run_all()
    copies: list[bool] = []
    late: list[threading.Thread] = []
    copied = store._environment.copied

    @contextlib.contextmanager
    def written_meanwhile() -> Iterator[Copy]:
        with copied() as copy:
            if not copies:
                # In the same thread: it would wait for ever for itself if it waited at all.
                store.commit(Batch(volumes=[VolumeRecord(7, "created", 1)]))
                late.append(threading.Thread(target=history.commit, args=(store, 10, kept[9])))
                late[0].start()
                late[0].join(0.2)
                assert late[0].is_alive()
            copies.append(True)
            yield copy

    monkeypatch.setattr(store._environment, "copied", written_meanwhile)
    before, after = store.compact()
    assert after < before
    assert len(copies) == 2
    late[0].join(10)
    assert [record.name for record in store.volumes()] == ["v1", "created"]
    assert history.files_of(store, 10) == kept[9]
    assert history.files_of(store, 4) == kept[4]


def test_a_copy_waits_for_commits_that_have_begun(
    store: Store, kept: dict[int, history.Files]
) -> None:
    """What they hold meanwhile, nobody has to wait for until the copy ends."""
    history.forget(store, 1, 2, 3)
    Maintenance(store).run_all()
    compacting = threading.Thread(target=store.compact)
    with store.writer.between_copies():
        compacting.start()
        compacting.join(0.2)
        assert compacting.is_alive()
        history.commit(store, STATES + 1, kept[3])
    compacting.join(20)
    assert not compacting.is_alive()
    assert history.files_of(store, STATES + 1) == kept[3]


def test_few_pages_are_written_for_a_snapshot(store: Store, kept: dict[int, history.Files]) -> None:
    Maintenance(store).run_all()
    before, written = store.totals()["stored_bytes"], thread_written_bytes()
    history.commit(store, STATES + 1, {**kept[STATES], b"one": os.urandom(10_000)})
    written = thread_written_bytes() - written
    added = store.totals()["stored_bytes"] - before
    assert 0 < written < added + 24 * 4096


def test_history_that_is_thinned_keeps_no_versions_for_their_deltas(store: Store) -> None:
    """One state of ten stays: it takes what ten such states take that never had others between."""
    maintenance = Maintenance(store)
    states = dict(enumerate(history.states(101), 1))
    for seq, files in states.items():
        history.commit(store, seq, files)
        if seq % 10 == 1:
            maintenance.run_all()
    kept = [seq for seq in states if seq % 10 == 1]
    for seq in states:
        if seq not in kept:
            history.forget(store, seq)
    maintenance.run_all()
    assert {seq: history.files_of(store, seq) for seq in kept} == {s: states[s] for s in kept}
    alive, copies = history.reachable(store), stored(store)
    assert alive <= set(copies)
    assert len(copies) <= len(alive) / (1 - repack.PACK_DEAD_FRACTION_MAX)
