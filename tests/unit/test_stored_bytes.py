"""`stored_bytes` of a volume is the sum over the snapshots that are stored, at any time."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from diffkeeper import failpoint, limits
from diffkeeper.format.ids import Root, SnapshotId
from diffkeeper.format.records import SnapshotRecord, VolumeRecord
from diffkeeper.snapshot.volume_state import VolumeState
from diffkeeper.store.store import Batch, Store

OLD = limits.STORE_PAGE_RECORDS_MAX + 50


def snapshot(seq: int) -> SnapshotRecord:
    return SnapshotRecord(
        1,
        seq,
        seq - 1 or None,
        Root(seq.to_bytes(32)),
        seq,
        "crash",
        "interval",
        1,
        1,
        1,
        seq,
        0.0,
        0.0,
    )


@pytest.fixture
def state(store: Store) -> VolumeState:
    """A volume with a history, as it is when a daemon starts."""
    old = [snapshot(seq) for seq in range(1, OLD + 1)]
    record = VolumeRecord(1, "v", 1, head=OLD, next_seq=OLD + 1)
    store.commit(Batch(volumes=[record], snapshots=old))
    return VolumeState(store, record)


def right(store: Store) -> int:
    return sum(each.stored_bytes for each in store.snapshots(1))


def test_what_is_captured_before_the_count_counts_once(store: Store, state: VolumeState) -> None:
    for _ in range(3):
        state.commit(Batch(), snapshot(state.record.next_seq))
    state.stored.count()
    state.commit(Batch(), snapshot(state.record.next_seq))
    state.stored.count()
    assert state.stored.bytes == right(store)


def test_what_is_forgotten_counts_no_more(store: Store, state: VolumeState) -> None:
    state.commit(Batch(), snapshot(state.record.next_seq))
    state.commit(Batch(), snapshot(state.record.next_seq))
    forget(store, state, [3, 4, OLD + 1])  # the first two were not counted yet
    state.stored.count()
    assert state.stored.bytes == right(store)
    forget(store, state, [5, 6])
    assert state.stored.bytes == right(store)
    failpoint.arm("store.before_commit=error")
    with pytest.raises(failpoint.FailpointError):
        forget(store, state, [7])
    assert state.stored.bytes == right(store)


def forget(store: Store, state: VolumeState, seqs: list[int]) -> None:
    with state.stored.forgetting(seqs):
        store.commit(Batch(snapshots_del={SnapshotId(1, seq) for seq in seqs}))


def test_captures_and_retention_while_it_is_counted(store: Store, state: VolumeState) -> None:
    begin = threading.Barrier(3)

    def capture() -> None:
        begin.wait()
        for _ in range(20):
            state.commit(Batch(), snapshot(state.record.next_seq))

    def thin() -> None:
        begin.wait()
        for seq in range(1, OLD, 20):
            forget(store, state, [seq, seq + 1])

    threads = [threading.Thread(target=each) for each in (capture, thin)]
    for thread in threads:
        thread.start()
    begin.wait()
    state.stored.count()
    for thread in threads:
        thread.join()
    assert state.stored.bytes == right(store)


def test_a_commit_that_failed_and_is_stored_counts(store: Store, state: VolumeState) -> None:
    state.stored.count()
    failpoint.arm("store.after_commit=error")
    with pytest.raises(failpoint.FailpointError):
        state.commit(Batch(), snapshot(state.record.next_seq))
    assert state.head == snapshot(OLD + 1)
    assert state.stored.bytes == right(store)
    failpoint.arm("store.before_commit=error")
    with pytest.raises(failpoint.FailpointError):
        state.commit(Batch(), replace(snapshot(state.record.next_seq), stored_bytes=10**6))
    assert state.stored.bytes == right(store)
