"""Opening: one process at a time, this format alone, and damage is named at once."""

from __future__ import annotations

import os
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
from diffkeeper.store import tables
from diffkeeper.store.batch import ObjectMap
from diffkeeper.store.store import Batch, Store


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
