"""A collection waits for who holds objects without work, and keeps nothing else waiting."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from diffkeeper import counters
from diffkeeper.errors import BusyError
from diffkeeper.format import chunk
from diffkeeper.hashing import chunk_digest
from diffkeeper.space.maintenance import Maintenance
from diffkeeper.store.batch import ObjectMap
from diffkeeper.store.store import Batch, Store
from tests.support import history

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from diffkeeper.messages.store import MaintenanceReport

GARBAGE = b"that nobody has"
DIGEST = chunk_digest(GARBAGE)


class Counting(Store):
    """Counts how often somebody asks who holds."""

    asked = 0
    waited = 0

    def holders(self) -> frozenset[object]:
        self.asked += 1
        return super().holders()

    def await_holders(self, awaited: frozenset[object], seconds: float) -> bool:
        self.waited += 1
        return super().await_holders(awaited, seconds)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Counting]:
    opened = Counting.open(str(tmp_path / "store"), reserve_bytes=0)
    for seq, files in enumerate(history.states(3, chunks=40), 1):
        history.commit(opened, seq, files)
    opened.commit(Batch(chunks=ObjectMap({DIGEST: chunk.encode(GARBAGE)})))
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffkeeper.space.maintenance.COLLECT_WAIT_SECONDS", 0.1)
    monkeypatch.setattr("diffkeeper.space.maintenance.DELTA_SECONDS_MAX", 0.0)


def test_maintenance_beside_an_import(store: Counting) -> None:
    maintenance = Maintenance(store)
    reports: list[MaintenanceReport] = []
    running = threading.Thread(target=lambda: reports.append(maintenance.run_all()))
    with store.holding():
        running.start()
        while store.waited < 3:  # it has done all it can, and waits
            assert running.is_alive()
        asked = store.asked
        while store.waited < 6:
            pass
        assert store.asked - asked <= 6
        # The background has its turns, and makes what is due.
        for seq, files in enumerate(history.states(6, chunks=40), 1):
            if seq > 3:
                history.commit(store, seq, files)
        before = store.repack.progress(1)
        while store.repack.progress(1) == before:
            maintenance.run_slice(1.0)
        assert store.repack.progress(1)[0] == 6
        assert not maintenance.run_slice(1.0)
        assert not reports
        assert store.missing([DIGEST]) == set()
    running.join(20)
    assert reports[0].collected >= 1
    assert store.missing([DIGEST]) == {DIGEST}


def test_the_background_gives_up_and_begins_anew(
    store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffkeeper.space.maintenance.COLLECT_SECONDS_MIN", 0.0)
    maintenance = Maintenance(store)
    with store.holding():
        while not maintenance._awaited:
            maintenance.run_slice(0.02)
        assert store.repack.garbage
        marked = store.asked
        for _ in range(5):
            assert not maintenance.run_slice(0.02)
        assert store.asked - marked <= 10
        with store.holding():  # captures come and go meanwhile
            assert not maintenance.run_slice(0.02)
        before = collections()
    # Who asks for the garbage while it is collected has it stay.
    while collections() == before:
        maintenance.run_slice(0.02)
    assert store.missing([DIGEST]) == {DIGEST}


def test_a_capture_that_takes_a_while_is_waited_for(
    store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Giving up would mark everything anew, and meet the next long capture."""
    monkeypatch.setattr("diffkeeper.space.maintenance.COLLECT_WAIT_SECONDS", 60.0)
    maintenance = Maintenance(store)
    before = collections()
    with store.holding():
        while not waits(maintenance):
            maintenance.run_slice(0.02)
        time.sleep(0.3)
        assert waits(maintenance)
    while collections() == before:
        maintenance.run_slice(0.02)
    assert collections() == {**before, "done": before.get("done", 0) + 1}
    assert store.missing([DIGEST]) == {DIGEST}


def waits(maintenance: Maintenance) -> bool:
    """Whether a collection has marked all, and is not given up."""
    work = maintenance._work
    return work is not None and bool(next(work))


def collections() -> dict[str, float]:
    """Collections since the start of this process, by their result."""
    return {
        dict(pairs)["result"]: count
        for (name, pairs), count in counters.counts().items()
        if name == "collections_total"
    }


def test_a_collection_that_is_closed_is_still_due(store: Counting) -> None:
    steps = store.collector().steps()
    next(steps)
    steps.close()  # type: ignore[attr-defined]  # it is a generator
    assert store.repack.garbage
    assert Maintenance(store).run_all().collected >= 1


def test_who_waits_is_told_when_the_daemon_ends(store: Counting) -> None:
    maintenance = Maintenance(store)
    failed: list[BusyError] = []

    def run() -> None:
        try:
            maintenance.run_all()
        except BusyError as error:
            failed.append(error)

    with store.holding():
        running = threading.Thread(target=run)
        running.start()
        while store.waited < 2:
            pass
        maintenance.stop()
        running.join(20)
        assert not running.is_alive()
    assert failed
