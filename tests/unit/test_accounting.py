"""What volumes take: exact for few objects, a sample of many, always in bounded memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from diffkeeper import clock
from diffkeeper.format.ids import Root
from diffkeeper.format.records import SnapshotRecord
from diffkeeper.hashing import chunk_digest
from diffkeeper.replay.object_source import StoreObjects
from diffkeeper.space.reachable import Walk, Window
from diffkeeper.space.usage import Account, Sample, UsageWalk
from diffkeeper.store.store import Batch, Store
from tests.support.histories import FILE_BYTES, stored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store.open(str(tmp_path / "s"))
    yield made
    made.close()


def counted(accounting: UsageWalk) -> dict[int, Account]:
    found = accounting.refresh()
    assert found is not None
    return found.volumes


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time passes between a snapshot and a count: growth is divided by it."""
    now = clock.now_ns()
    monkeypatch.setattr(clock, "now_ns", lambda: now)


@pytest.mark.usefixtures("still")
def test_unique_and_shared_bytes_are_exact(store: Store) -> None:
    a, b, both, old = (os.urandom(FILE_BYTES) for _ in range(4))
    stored(store, 1, 1, [old, both], hours_ago=3)
    stored(store, 1, 2, [a, both], hours_ago=2)
    stored(store, 2, 1, [both, b, b])
    accounting = UsageWalk(store)
    first, second = counted(accounting)[1], counted(accounting)[2]
    assert (first.unique_bytes, first.shared_bytes) == (2 * FILE_BYTES, FILE_BYTES)
    assert (second.unique_bytes, second.shared_bytes) == (FILE_BYTES, FILE_BYTES)
    assert (first.logical_bytes, first.history_bytes) == (2 * FILE_BYTES, 4 * FILE_BYTES)
    assert first.growth_bytes_per_day == 8000, "1000 bytes in the three hours since the first"
    assert accounting.latest is not None
    total = accounting.latest.total
    assert total.unique_bytes + total.shared_bytes == 4 * FILE_BYTES
    reached = set()
    for volume in (1, 2):
        for record in store.snapshots(volume):
            walk = Walk(StoreObjects(store).nodes)
            reached |= {each.digest for each in walk.objects(record.root)}
    assert total.stored_bytes == sum(map(store.stored_bytes, reached))
    assert total.stored_bytes == (first.unique_stored_bytes + second.stored_bytes), (
        "what the second has not alone is counted there"
    )


def test_it_is_counted_anew_only_after_a_change(store: Store) -> None:
    stored(store, 1, 1, [os.urandom(FILE_BYTES)])
    accounting = UsageWalk(store)
    first = accounting.refresh()
    assert accounting.refresh() is first
    stored(store, 1, 2, [os.urandom(FILE_BYTES)])
    assert accounting.refresh() is not first
    assert counted(accounting)[1].unique_bytes == 2 * FILE_BYTES


def test_a_damaged_snapshot_is_told(store: Store) -> None:
    made = stored(store, 1, 1, [b"x"])
    lost = SnapshotRecord(
        1, 2, 1, Root(chunk_digest(b"nothing")), made.time_ns, "crash", "manual", 1, 1, 1, 1, 0, 0
    )
    store.commit(Batch(snapshots=[lost]))
    found = UsageWalk(store).refresh()
    assert found is not None
    assert found.volumes[1].unique_bytes == 1
    assert found.unreadable == 1
    accounting = UsageWalk(store)
    accounting.stop()
    assert accounting.refresh() is None


def test_a_sample_is_bounded_and_close() -> None:
    sample = Sample(entries_max=4096)
    for number in range(100_000):
        digest = chunk_digest(b"%d" % number)
        for owner in (1, 2) if number % 4 == 0 else (1,):
            if sample.wants(digest, owner):
                sample.add(digest, owner, 100, 10)
    assert len(sample.entries) <= 4096
    assert sample.one_in == 32
    shared = [plain for owners, plain, _ in sample.entries.values() if len(owners) > 1]
    assert sum(shared) * sample.one_in == pytest.approx(2_500_000, rel=0.1)
    assert len(sample.entries) * sample.one_in == pytest.approx(100_000, rel=0.05)


def test_a_window_forgets_what_was_not_met_for_long() -> None:
    window = Window(2)
    one, two, three = (chunk_digest(bytes([n])) for n in range(3))
    assert window.add(one)
    assert window.add(two)
    assert not window.add(one)
    assert window.add(three)
    assert two not in window
    assert one in window
