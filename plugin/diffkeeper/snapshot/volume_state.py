"""The stored record of one volume and its head, changed by the lifecycle and by captures."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypedDict, Unpack

from diffkeeper.snapshot.stored_bytes import StoredBytes
from diffkeeper.store.store import Batch, Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diffkeeper.format.records import SnapshotRecord, VolumeRecord


class RecordChanges(TypedDict, total=False):
    """Fields of a `VolumeRecord` that change, but for those that a snapshot changes."""

    name: str
    options: dict[str, str]
    next_link_id: int
    mounts: dict[str, int]
    boot_id: str
    clean: bool
    verified_seq: int | None
    removed_ns: int | None
    live_id: str


class VolumeState:
    """One volume's stored record and newest snapshot. Thread safe."""

    def __init__(self, store: Store, record: VolumeRecord) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._record = record
        self._head = self._newest(record)
        self._stored = StoredBytes(store, record.id, record.next_seq)

    def _newest(self, record: VolumeRecord) -> SnapshotRecord | None:
        return self._store.snapshot(record.id, record.head) if record.head is not None else None

    @property
    def record(self) -> VolumeRecord:
        """The record as it is stored."""
        return self._record

    @property
    def stored(self) -> StoredBytes:
        """What its snapshots have added to the store."""
        return self._stored

    @property
    def head(self) -> SnapshotRecord | None:
        """The newest snapshot."""
        return self._head

    def commit(
        self,
        batch: Batch,
        snapshot: SnapshotRecord | None = None,
        **changes: Unpack[RecordChanges],
    ) -> None:
        """Store the batch and the changed record in one durable transaction."""
        commit_together([Change(self, batch, snapshot, changes)])

    def update(self, **changes: Unpack[RecordChanges]) -> None:
        """Change fields of the record durably."""
        self.commit(Batch(), **changes)

    def _changed(self, change: Change) -> VolumeRecord:
        record = replace(self._record, **change.fields)
        if change.snapshot is None:
            return record
        return replace(record, head=change.snapshot.seq, next_seq=change.snapshot.seq + 1)

    def _publish(self, record: VolumeRecord, snapshot: SnapshotRecord | None) -> None:
        self._record = record
        if snapshot is not None:
            self._head = snapshot
            self._stored.add(snapshot)

    def _reload(self, stored: dict[int, VolumeRecord]) -> None:
        """After a failed commit: it may be stored all the same, so read what the store has."""
        before = self._record.next_seq
        self._record = stored.get(self._record.id, self._record)
        self._head = self._newest(self._record)
        if self._head is not None and self._head.seq >= before:
            self._stored.add(self._head)


@dataclass(slots=True)
class Change:
    """One volume's part of a transaction: objects, a snapshot, changed fields of its record."""

    state: VolumeState
    batch: Batch
    snapshot: SnapshotRecord | None = None
    fields: RecordChanges = field(default_factory=RecordChanges)


def commit_together(changes: Sequence[Change]) -> None:
    """Store the changes of several volumes of one store in one durable transaction."""
    changes = sorted(changes, key=lambda change: change.state.record.id)
    store, batch = changes[0].state._store, Batch()
    for change in changes:
        batch.merge(change.batch)
    batch.snapshots += [c.snapshot for c in changes if c.snapshot is not None]
    with contextlib.ExitStack() as stack:
        if not batch.records_only:
            # Not with the locks: a Mount needs one of them, and waits for no copy.
            stack.enter_context(store.writer.between_copies())
        for change in changes:
            stack.enter_context(change.state._lock)
        records = [change.state._changed(change) for change in changes]
        batch.volumes += records
        try:
            store.commit(batch)
        except BaseException:
            stored = {record.id: record for record in store.volumes()}
            for change in changes:
                change.state._reload(stored)
            raise
        for change, record in zip(changes, records, strict=True):
            change.state._publish(record, change.snapshot)
