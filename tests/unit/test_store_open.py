"""Opening: one process at a time, this format alone, and damage is named at once."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from diffkeeper.errors import (
    CorruptionError,
    FormatVersionError,
    InvalidInputError,
    StoreLockedError,
)
from diffkeeper.format import chunk
from diffkeeper.hashing import chunk_digest
from diffkeeper.limits import STORE_SPARE_BYTES
from diffkeeper.space.maintenance import Maintenance
from diffkeeper.store import tables
from diffkeeper.store.batch import ObjectMap
from diffkeeper.store.store import Batch, Store
from tests.support import history


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Directory of a closed store with 50 chunks of 5,000 bytes."""
    where = str(tmp_path / "store")
    store = Store.open(where, reserve_bytes=0)
    plains = [os.urandom(5000) for _ in range(50)]
    store.commit(Batch(chunks=ObjectMap({chunk_digest(p): chunk.encode(p) for p in plains})))
    store.close()
    return where


def test_the_second_process_is_refused(path: str) -> None:
    store = Store.open(path)
    script = f"from diffkeeper.store.store import Store; Store.open({path!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    second = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert "StoreLockedError" in second.stderr
    with pytest.raises(StoreLockedError, match="another process"):
        Store.open(path)
    store.close()
    Store.open(path).close()


def test_a_failed_opening_lets_the_lock_go(path: str) -> None:
    data = Path(path, "data.mdb")
    good = data.read_bytes()
    data.write_bytes(b"garbage" * 10_000)
    for _ in range(2):
        with pytest.raises(CorruptionError, match=r"store/data\.mdb"):
            Store.open(path)
    data.write_bytes(good)
    Store.open(path).close()


def test_a_newer_format_is_refused(path: str) -> None:
    with lmdb.open(path, max_dbs=16) as env, env.begin(write=True) as txn:
        meta = env.open_db(tables.META.database, txn=txn)
        newer = tables.pack_u64(tables.FORMAT_VERSION + 1)
        txn.put(tables.META_FORMAT, newer, db=meta)
    with pytest.raises(FormatVersionError, match=f"format version {tables.FORMAT_VERSION + 1}"):
        Store.open(path)


def test_an_older_store_gets_what_it_lacks(path: str) -> None:
    with lmdb.open(path, max_dbs=16) as env, env.begin(write=True) as txn:
        meta = env.open_db(tables.META.database, txn=txn)
        txn.put(tables.META_FORMAT, tables.pack_u64(2), db=meta)
        for table in tables.TABLES:
            if table.since > 2:
                txn.drop(env.open_db(table.database, txn=txn))
    store = Store.open(path)
    assert (store.totals()["chunks"], list(store.all_tags())) == (50, [])
    store.close()
    with lmdb.open(path, max_dbs=16) as env, env.begin() as txn:
        version = txn.get(tables.META_FORMAT, db=env.open_db(tables.META.database, txn=txn))
    assert version == tables.pack_u64(tables.FORMAT_VERSION)


def test_a_store_without_a_version_is_refused(path: str) -> None:
    with lmdb.open(path, max_dbs=16) as env, env.begin(write=True) as txn:
        txn.delete(tables.META_FORMAT, db=env.open_db(tables.META.database, txn=txn))
    with pytest.raises(CorruptionError, match="no format version"):
        Store.open(path)


def test_another_program_s_environment_is_refused(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "other")) as env, env.begin(write=True) as txn:
        txn.put(b"key", b"value")
    with pytest.raises(CorruptionError, match="no table of a store"):
        Store.open(str(tmp_path / "other"))


@pytest.mark.parametrize("loss", ["missing", "empty"])
def test_lost_data_is_not_a_new_store(path: str, loss: str) -> None:
    data = Path(path, "data.mdb")
    data.unlink()
    if loss == "empty":
        data.touch()
    with pytest.raises(CorruptionError, match="missing or empty"):
        Store.open(path)


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_a_cut_file_is_found_at_open(path: str, part: float) -> None:
    data = Path(path, "data.mdb")
    used = data.stat().st_size - STORE_SPARE_BYTES
    os.truncate(data, int(used * part) // 4096 * 4096)
    with pytest.raises(CorruptionError):
        Store.open(path)


def test_a_file_where_the_directory_belongs(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("x")
    with pytest.raises(InvalidInputError, match="store"):
        Store.open(str(tmp_path / "store"))
    with pytest.raises(InvalidInputError, match="no/store"):
        Store.open(str(tmp_path / "no" / "store"))


def test_pages_of_a_commit_end_inside_the_file(path: str) -> None:
    store = Store.open(path, reserve_bytes=0)
    for i in range(30):
        store.commit(Batch(chunks=ObjectMap({chunk_digest(b"%d" % i): chunk.encode(b"%d" % i)})))
        env = store._environment._env
        assert store.file_bytes() >= (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    store.close()


PAGE = 4096


def filled(path: str, packs: int) -> dict[int, history.Files]:
    """A closed store with so many packs of many pages each, a snapshot for each."""
    store = Store.open(path, reserve_bytes=0)
    source = random.Random(1)
    found = {}
    for seq in range(1, packs + 1):
        found[seq] = {b"f": source.randbytes(8 * history.CHUNK)}
        history.commit(store, seq, found[seq])
    while not store.repack.merge():
        pass
    store.close()
    return found


def test_opening_looks_at_no_pack(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, each of them far from the last: only the trees are read."""
    filled(path, 300)
    reads = []
    pread = os.pread

    def counted(fd: int, count: int, offset: int) -> bytes:
        reads.append(count)
        return pread(fd, count, offset)

    monkeypatch.setattr(os, "pread", counted)
    Store.open(path).close()
    assert len(reads) < 100
    assert sum(reads) < 100 * PAGE


def spoil_long_value(path: str) -> None:
    """Damage what the first long value begins with: LMDB would give more pages back than it has."""
    with open(f"{path}/data.mdb", "r+b") as file:
        for at in range(2 * PAGE, os.stat(file.name).st_size, PAGE):
            file.seek(at)
            number, _, flags, pages = struct.unpack("<QHHI", file.read(16))
            if number == at // PAGE and flags == 4:
                file.seek(at + 12)
                file.write(struct.pack("<I", pages + 1000))
                return
    raise AssertionError("there is none")


def test_a_pack_that_lmdb_would_not_remove_as_a_whole_stays(path: str) -> None:
    kept = filled(path, 40)
    spoil_long_value(path)
    store = Store.open(path, reserve_bytes=0)
    assert {seq: history.files_of(store, seq) for seq in kept} == kept, "it is read as before"
    before = store.totals()["stored_bytes"]
    history.forget(store, *range(1, 36))
    report = Maintenance(store).run_all()
    assert "is not the value that belongs there" in report.damage[0]
    assert store.totals()["stored_bytes"] < before / 3, "all others went"
    with pytest.raises(CorruptionError, match="is not the value that belongs there"):
        store.compact()
    left = {seq: kept[seq] for seq in range(36, 41)}
    assert {seq: history.files_of(store, seq) for seq in left} == left
    history.commit(store, 41, kept[1])
    assert history.files_of(store, 41) == kept[1]
    store.close()
    Store.open(path).close()
