"""kill -9 while the records of a long history are stored: the volume is whole, or is not there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from diffkeeper import failpoint, limits
from diffkeeper.errors import BusyError
from diffkeeper.service.import_commit import IMPORT_RECORDS_MAX, Adoption, remove_unfinished
from diffkeeper.space.maintenance import Maintenance
from diffkeeper.store import tables
from diffkeeper.store.store import Batch, Store
from tests.support import history, long_import
from tests.support.long_import import COUNT, archive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "store"
    store = Store.open(str(path), reserve_bytes=0)
    for seq, files in enumerate(history.states(3, chunks=20), 1):
        history.commit(store, seq, files)
    store.close()
    return path


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Iterator[Store]:
    shutil.copytree(made, tmp_path / "store")
    opened = Store.open(str(tmp_path / "store"), reserve_bytes=0)
    yield opened
    failpoint.disarm()
    opened.close()


def killed(path: Path, act: str, armed: str) -> None:
    """The program of `long_import` does this with the store, and is killed at its failpoint."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", long_import.__name__, act, str(path), armed]
    ended = subprocess.run(command, env=environment, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL, f"{armed} was never passed"


def whole(store: Store) -> bool:
    """Whether the imported volume is there with all that it has; else nothing of it may be."""
    found = {volume.name: volume for volume in store.volumes()}
    ids = {volume.id for volume in found.values()}
    assert set(found) <= {"v1", "new"}
    assert store.snapshot_count(1) == 3
    if "new" not in found:
        with store._environment.read() as txn:
            keys = txn.keys(tables.SNAPSHOTS, b"", 10_000)
        assert {tables.pair_of(key)[0] for key in keys} == ids == {1}
        assert store.volume_id("new") is None
        return False
    number = found["new"].id
    assert store.volume_id("new") == number
    assert [s.seq for s in store.snapshots(number)] == list(range(1, COUNT + 1))
    assert store.tags(number) == {"good": 7, "newest": COUNT}
    return True


@pytest.mark.parametrize(
    ("armed", "there"),
    [
        ("adopt.before_commit=kill", False),
        ("adopt.after_commit=kill", False),
        ("import.records_stored=kill:1", False),
        ("import.records_stored=kill:3", False),
        ("import.before_commit=kill", False),
        ("import.after_commit=kill", True),
    ],
)
def test_kill_at_a_failpoint(made: Path, tmp_path: Path, armed: str, there: bool) -> None:
    path = tmp_path / "store"
    shutil.copytree(made, path)
    killed(path, "store", armed)
    store = Store.open(str(path), reserve_bytes=0)
    remove_unfinished(store)
    assert whole(store) == there
    if not there:
        adoption = Adoption(store, "new", archive(store))
        adoption.store()
        adoption.finish()
        assert whole(store)
    remove_unfinished(store)
    assert whole(store), "what is whole is not taken for unfinished"
    Maintenance(store).run_all()
    for seq, files in enumerate(history.states(3, chunks=20), 1):
        assert history.files_of(store, seq) == files
        assert history.files_of(store, seq, store.volume_id("new") or 0) == files
    store.close()


def test_what_is_killed_while_it_removes_is_removed_later(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "store"
    shutil.copytree(made, path)
    killed(path, "store", "import.before_commit=kill")
    for armed in ("store.after_commit=kill", "adopt.before_commit=kill"):
        killed(path, "remove", armed)
    store = Store.open(str(path), reserve_bytes=0)
    remove_unfinished(store)
    assert not whole(store)
    store.close()


def test_a_transaction_has_few_records(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    commit = store.commit

    def counted(batch: Batch) -> None:
        sizes.append(len(batch.snapshots) + len(batch.snapshots_del))
        commit(batch)

    monkeypatch.setattr(store, "commit", counted)
    adoption = Adoption(store, "new", archive(store))
    adoption.store()
    assert [v.name for v in store.volumes()] == ["v1"]
    adoption.discard()
    assert max(sizes) <= max(IMPORT_RECORDS_MAX, limits.FORGET_BATCH_MAX)
    assert sum(sizes) == 2 * COUNT
    assert not whole(store)


def test_what_fails_half_way_leaves_nothing(store: Store) -> None:
    failpoint.arm("import.records_stored=error:2")
    adoption = Adoption(store, "new", archive(store))
    with pytest.raises(failpoint.FailpointError):
        adoption.store()
    adoption.discard()
    assert not whole(store)
    with pytest.raises(BusyError):
        adoption.store()
    adoption.discard()
    assert not whole(store)


def test_a_collection_meanwhile_takes_nothing(store: Store) -> None:
    """The snapshots that nobody sees yet keep what they need, also when their origin goes."""
    adoption = Adoption(store, "new", archive(store))
    adoption.store()
    history.forget(store, 1, 2)
    Maintenance(store).run_all()
    record = adoption.finish()
    for seq, files in enumerate(history.states(2, chunks=20), 1):
        assert history.files_of(store, seq, record.id) == files
