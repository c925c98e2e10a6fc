"""kill -9 at any point of maintenance leaves every snapshot whole, and the next run goes on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from diffkeeper import limits
from diffkeeper.format.records import IndexRecord
from diffkeeper.space.maintenance import Maintenance
from diffkeeper.store import tables
from diffkeeper.store.store import Batch, Store
from tests.support import golden, history
from tests.support.killed import CARRIES, MAINTENANCE
from tests.support.stored import signatures

if TYPE_CHECKING:
    from pathlib import Path

STATES = 8
FORGOTTEN = (1, 2, 4)
# Maintains and compacts the store.
RUN = """
import sys
from diffkeeper import failpoint
from diffkeeper.space.maintenance import Maintenance
from diffkeeper.store.store import Store

store = Store.open(sys.argv[1], reserve_bytes=0)
failpoint.arm(sys.argv[2])
Maintenance(store).run_all()
store.compact()
"""
LAST_CARRY = "carry.after_commit=kill:6"
INDEXED = limits.STORE_PAGE_RECORDS_MAX + 10  # signatures, which takes two steps to look through


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store with all that maintenance has to do."""
    path = tmp_path_factory.mktemp("made") / "store"
    store = Store.open(str(path), reserve_bytes=0)
    for seq, files in enumerate(history.states(STATES), 1):
        history.commit(store, seq, files)
    contents = [history.content_of(store, seq, b"large") for seq in (FORGOTTEN[0], STATES)]
    for at, content in enumerate(contents):
        raw = IndexRecord(1, 1, 1, 1, 1, content=content).encode()
        records = {(1, 2 * number + at): raw for number in range(INDEXED)}
        store.commit(Batch(index_put=records))
    history.forget(store, *FORGOTTEN)
    store.close()
    return path


def start(path: Path, armed: str, program: str = RUN) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", program, str(path), armed],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def killed(path: Path, armed: str, program: str = RUN) -> None:
    """The program comes to the failpoint, and dies there."""
    with start(path, armed, program) as process:
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, f"{armed} was never passed"


def check(path: Path) -> None:
    """Every snapshot that was not forgotten is whole, before and after another run."""
    kept = {
        seq: files for seq, files in enumerate(history.states(STATES), 1) if seq not in FORGOTTEN
    }
    store = Store.open(str(path), reserve_bytes=0)
    try:
        assert {seq: history.files_of(store, seq) for seq in kept} == kept
        Maintenance(store).run_all()
        assert {seq: history.files_of(store, seq) for seq in kept} == kept
        alive = history.reachable(store)
        assert store.totals()["chunks"] + store.totals()["nodes"] < 1.25 * len(alive)
        newest = history.content_of(store, STATES, b"large")
        contents = {record.content for _, record in signatures(store, 1)}
        assert contents == {newest}, "no capture may build on what is gone"
        assert sum(1 for _ in signatures(store, 1)) == INDEXED
        store.compact()
        assert sorted(os.listdir(path)) == ["ballast", "data.mdb", "lock", "lock.mdb"]
    finally:
        store.close()


@pytest.mark.parametrize("armed", MAINTENANCE)
def test_kill_at_a_failpoint(made: Path, tmp_path: Path, armed: str) -> None:
    path = tmp_path / "store"
    shutil.copytree(made, path)
    killed(path, armed)
    check(path)


@pytest.mark.parametrize("armed", CARRIES)
def test_kill_while_older_objects_are_packed(tmp_path: Path, armed: str) -> None:
    """Each object is where it was or in a pack, and all are in packs after the next run."""
    path = tmp_path / "store"
    golden.unpack(golden.FORMAT_2, path)
    killed(path, armed)
    store = Store.open(str(path), reserve_bytes=0)
    assert (one_by_one(store) == 0) == (armed == LAST_CARRY)
    for turn in ("killed", "carried"):
        golden.check(golden.FORMAT_2, store, tmp_path, turn)
        Maintenance(store).run_all()
    assert not one_by_one(store)
    totals = store.totals()
    assert totals["chunks"] + totals["nodes"] >= len(history.reachable(store))
    store.close()


def one_by_one(store: Store) -> int:
    """How many objects are not in a pack."""
    with store._environment.read() as txn:
        ends = b"", b"\xff" * 33
        return sum(len(txn.scan(t, *ends, 10_000)) for t in (tables.CHUNKS, tables.NODES))


def test_kill_at_random(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "store"
    shutil.copytree(made, path)
    source = random.Random(7)
    for _ in range(6):
        with start(path, "") as process:
            time.sleep(source.uniform(0.3, 1.0))
            process.kill()
    check(path)
