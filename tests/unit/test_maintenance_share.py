"""What maintenance may take of a core: more when it is behind, or when the machine is idle."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

from diffkeeper import limits
from diffkeeper.integrity.scrub import Scrubber
from diffkeeper.service.idle_share import CPU_FRACTION_IDLE_MAX, IDLE_SAMPLE_SECONDS, IdleShare
from diffkeeper.service.maintenance_thread import (
    MAINTENANCE_DEBT_CPU_FRACTION_MAX,
    MAINTENANCE_URGENT_CPU_FRACTION_MAX,
    MaintenanceThread,
)
from diffkeeper.snapshot.chunker import Chunker
from diffkeeper.space.maintenance import Maintenance
from diffkeeper.store.store import Store
from tests.support import history

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(str(tmp_path / "store"), reserve_bytes=0)
    for seq, files in enumerate(history.states(3), 1):
        history.commit(opened, seq, files)
    yield opened
    opened.close()


@pytest.fixture
def background(store: Store, tmp_path: Path) -> MaintenanceThread:
    """Not started; on a machine whose processors are not known to be idle."""
    scrubber = Scrubber(store, Chunker(), list)
    return MaintenanceThread(Maintenance(store), scrubber, IdleShare(str(tmp_path), 2))


def grow(store: Store) -> None:
    """Let the store take half as much again, and more."""
    before = store.used_bytes()
    for seq, files in enumerate(history.states(9, seed=2), 4):
        history.commit(store, seq, files)
        if store.used_bytes() > 1.5 * before:
            history.forget(store, 1)
            return
    pytest.fail("too few states")


def test_the_share_grows_with_the_store(
    store: Store, background: MaintenanceThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffkeeper.space.maintenance.DEBT_BYTES_MIN", 1)
    background.maintenance.run_all()
    assert background.maintenance.debt() == 0
    assert background.share() == limits.CPU_FRACTION_MAX
    grow(store)
    assert 0.5 < background.maintenance.debt() < 2
    assert limits.CPU_FRACTION_MAX < background.share() <= MAINTENANCE_DEBT_CPU_FRACTION_MAX
    assert background.maintenance.run_all().collected >= 1
    assert background.maintenance.debt() == 0
    assert background.share() == limits.CPU_FRACTION_MAX


def test_a_restart_pays_no_debt(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a daemon that ends before each collection does would never be behind."""
    monkeypatch.setattr("diffkeeper.space.maintenance.DEBT_BYTES_MIN", 1)
    assert Maintenance(store).debt() > 1  # it was never collected
    Maintenance(store).run_all()
    assert Maintenance(store).debt() == 0
    grow(store)
    store.close()
    again = Store.open(str(tmp_path / "store"), reserve_bytes=0)
    assert 0.5 < Maintenance(again).debt() < 2
    again.close()


def test_without_garbage_nothing_is_owed(
    store: Store, background: MaintenanceThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffkeeper.space.maintenance.DEBT_BYTES_MIN", 1)
    background.maintenance.run_all()
    history.commit(store, 4, {b"new": random.Random(1).randbytes(1 << 20)})
    assert background.maintenance.debt() == 0


def test_a_small_store_owes_nothing(store: Store, background: MaintenanceThread) -> None:
    grow(store)
    assert background.maintenance.debt() < 0.1


def test_want_of_room_comes_first(store: Store, background: MaintenanceThread) -> None:
    store.repack.urgent = True
    assert background.share() == MAINTENANCE_URGENT_CPU_FRACTION_MAX


def test_an_idle_machine_gives_more(background: MaintenanceThread, tmp_path: Path) -> None:
    background.maintenance.run_all()
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 0 100 0 0 0 0 0 0\n")
    assert background.share() == limits.CPU_FRACTION_MAX
    time.sleep(IDLE_SAMPLE_SECONDS * 1.1)
    stat.write_text("cpu  100 0 0 300 0 0 0 0 0 0\n")
    assert background.share() == CPU_FRACTION_IDLE_MAX
