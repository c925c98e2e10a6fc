"""Scrubbing without live directories: damage to deltas, other copies, passes in slices."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from diffkeeper.errors import BusyError, CorruptionError, NotFoundError
from diffkeeper.format import pack
from diffkeeper.format.ids import SnapshotId
from diffkeeper.fsio.durable import remove_tree
from diffkeeper.hashing import chunk_digest
from diffkeeper.integrity.salvage import Salvage, SalvageSource
from diffkeeper.integrity.scrub import Scrubber
from diffkeeper.snapshot.chunker import Chunker
from diffkeeper.space.maintenance import Maintenance
from diffkeeper.store import tables
from diffkeeper.store.pack_index import pack_of, slot_of
from diffkeeper.store.store import Batch, Store
from tests.support import history, rot
from tests.support.capture_rig import CaptureRig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from diffkeeper.format.ids import ObjectId

STATES = 6
DEPTH = 1_100


@pytest.fixture
def reader() -> Iterator[Chunker]:
    made = Chunker()
    yield made
    made.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed store with deltas."""
    made = tmp_path / "store"
    store = Store.open(str(made), reserve_bytes=0)
    for seq, files in enumerate(history.states(STATES, chunks=60), 1):
        history.commit(store, seq, files)
    Maintenance(store).run_all()
    store.close()
    return made


def bases(store: Store) -> set[bytes]:
    """Digests of all bases of deltas."""
    found = set()
    with store._environment.read() as txn:
        for digest in history.reachable(store):
            at = store.objects.pack_index.find(txn, digest)
            assert at is not None
            directory = store.objects.directory(txn, pack_of(at))
            assert directory is not None
            found.add(directory.base_digest(slot_of(at)) or b"")
    return found - {b""}


def test_a_damaged_base_is_lost_with_what_needs_it_alone(path: Path, reader: Chunker) -> None:
    store = Store.open(str(path), reserve_bytes=0)
    newest = set(history.reachable(store))
    base = sorted(bases(store))[0]
    store.close()
    rot.spoil(path, [base])
    store = Store.open(str(path), reserve_bytes=0)
    report = Scrubber(store, reader, list).run_all()
    assert 0 < report.lost_objects < len(newest)
    lost = {(entry.volume, entry.seq) for entry in report.lost}
    assert lost == {("v1", seq) for _, seq in store.damaged}
    for seq, files in enumerate(history.states(STATES, chunks=60), 1):
        if ("v1", seq) in lost:
            with pytest.raises((CorruptionError, NotFoundError)):
                history.files_of(store, seq)
        else:
            assert history.files_of(store, seq) == files
    store.close()


def test_another_copy_heals(path: Path, reader: Chunker) -> None:
    store = Store.open(str(path), reserve_bytes=0)
    digests = sorted(bases(store))[:3]
    builder = pack.Builder(1)
    for digest in digests:
        each = store.objects.identify(digest)
        builder.add(each, store.objects.plain(each))
    store.repack.replace(builder.finish(), None)
    store.close()
    rot.spoil(path, digests)  # the newer copies
    store = Store.open(str(path), reserve_bytes=0)
    report = Scrubber(store, reader, list).run_all()
    assert report.healed_objects == report.damaged_objects >= len(digests)
    assert (report.lost, store.damaged) == ([], {})
    for seq, files in enumerate(history.states(STATES, chunks=60), 1):
        assert history.files_of(store, seq) == files
    store.close()


def test_a_lost_place_is_found_again(path: Path, reader: Chunker) -> None:
    store = Store.open(str(path), reserve_bytes=0)
    wanted = sorted(history.reachable(store))[:20]
    with store._environment.write() as txn:
        for digest in wanted:
            txn.delete(tables.PLACES, digest[: tables.PLACE_KEY_BYTES])
    store.close()
    store = Store.open(str(path), reserve_bytes=0)
    assert store.unknown(wanted) == set(wanted)
    before = store.totals()["chunks"]
    collector = store.collector()
    for _ in collector.steps():
        pass
    assert collector.damage
    assert store.totals()["chunks"] == before
    scrubber = Scrubber(store, reader, list)
    report = scrubber.run_all()
    assert report.lost_objects == 0, report
    assert report.healed_objects >= 1
    for seq, files in enumerate(history.states(STATES, chunks=60), 1):
        assert history.files_of(store, seq) == files
    store.close()


def test_a_pass_in_slices(path: Path, reader: Chunker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffkeeper.integrity.scrub.SCRUB_FIRST_SECONDS", 0.0)
    store = Store.open(str(path), reserve_bytes=0)
    scrubber = Scrubber(store, reader, list)
    scrubber.run_slice()
    assert scrubber.shown().last is None
    assert scrubber.shown().under_way
    slices = 1
    while not scrubber.shown().last:
        scrubber.run_slice()
        slices += 1
    assert slices > len(store.repack.packs())
    assert scrubber.shown().under_way is None
    scrubber.run_slice()  # the next one is due in a week
    assert scrubber.shown().under_way is None
    store.close()


def test_the_end_of_the_daemon_ends_a_first_pass(
    path: Path, reader: Chunker, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(str(path), reserve_bytes=0)
    scrubber = Scrubber(store, reader, list)
    ending = threading.Thread(target=scrubber.stop)
    check = store.healer.check

    def checked(number: int) -> tuple[int, int, dict[bytes, str]]:
        """The daemon ends while the first pack is read."""
        if ending.ident is None:
            ending.start()
            time.sleep(0.2)
        return check(number)

    monkeypatch.setattr(store.healer, "check", checked)
    with pytest.raises(BusyError, match="the daemon ends"):
        scrubber.run_all()
    ending.join(10)
    assert scrubber.shown().under_way is None
    assert scrubber.shown().last is None
    store.close()


def test_a_volume_that_is_purged_while_it_is_looked_at(path: Path, reader: Chunker) -> None:
    """What it misses by then is no loss any more, and ends no pass."""
    store = Store.open(str(path), reserve_bytes=0)
    history.commit(store, 1, {b"other": b"volume"}, volume=2)
    store.close()
    rot.spoil(path, [chunk_digest(b"volume")])
    store = Store.open(str(path), reserve_bytes=0)

    def purge() -> list[SalvageSource]:
        """Live directories are asked for once losses are known."""
        store.commit(Batch(snapshots_del={SnapshotId(2, 1)}, volumes_del={2}))
        return []

    scrubber = Scrubber(store, reader, purge)
    report = scrubber.run_all()
    assert (report.lost, report.lost_snapshots, scrubber.trouble) == ([], 0, "")
    assert store.damaged == {}
    store.close()


def test_what_is_lost_is_a_trouble_until_it_is_forgotten(path: Path, reader: Chunker) -> None:
    store = Store.open(str(path), reserve_bytes=0)
    history.commit(store, 1, {b"other": b"volume"}, volume=2)
    history.commit(store, 2, {b"other": b"again"}, volume=2)
    store.close()
    rot.spoil(path, [chunk_digest(b"volume")])
    store = Store.open(str(path), reserve_bytes=0)
    scrubber = Scrubber(store, reader, list)
    report = scrubber.run_all()
    assert [entry.path for entry in report.lost] == ["/other"]
    assert "damaged beyond healing" in scrubber.trouble
    history.forget(store, 1, volume=2)
    assert (scrubber.trouble, store.damaged) == ("", {})
    store.close()


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A directory in which others are nested deeper than Python's calls go, and a file at the end.

    It is removed here: what removes temporary directories calls itself for each level.
    """
    live = tmp_path / "live"
    live.mkdir()
    fd = os.open(live, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.mkdir("empty", dir_fd=fd)
    file = os.open("deep", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd)
    os.write(file, b"at the end")
    os.close(file)
    os.close(fd)
    yield live
    remove_tree(str(live))


def test_what_lies_deep_in_a_live_directory_heals(tmp_path: Path, deep: Path) -> None:
    with CaptureRig(tmp_path, live=deep) as rig:
        head = rig.capture()
        found: dict[bytes, bytes] = {}

        def take(each: ObjectId, plain: bytes) -> None:
            found[each.digest] = plain

        live = SalvageSource(1, str(rig.live), rig.policy.chunk_bits)
        rebuild = Salvage(rig.store, rig.reader, live, lambda digests: digests, take)
        for _ in rebuild.everything():
            pass
        assert head.root in found
        assert found[chunk_digest(b"at the end")] == b"at the end"


def test_memory_does_not_grow_with_packs(
    path: Path, reader: Chunker, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs = 40_000
    store = Store.open(str(path), reserve_bytes=0)
    there = store.repack.packs
    # Most of them are gone when they are looked at, as after a collection meanwhile.
    monkeypatch.setattr(store.objects.pack_index, "next_pack", packs)
    monkeypatch.setattr(
        store.repack, "packs", lambda at: there(at) or list(range(at, min(at + 500, packs)))
    )
    scrubber = Scrubber(store, reader, list)
    tracemalloc.start()
    try:
        report = scrubber.run_all()
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert packs - 100 < report.packs < packs
    assert report.lost_objects == 0
    assert most < 1_000_000
    store.close()
