"""The record of one volume, changed by the lifecycle and by captures, stored as a whole."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from diffkeeper.store.store import Batch, Store

if TYPE_CHECKING:
    from diffkeeper.format.records import SnapshotRecord, VolumeRecord


class VolumeState:
    """One volume's stored record and newest snapshot. Thread safe."""

    def __init__(self, store: Store, record: VolumeRecord) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._record = record
        self._head = self._newest(record)

    def _newest(self, record: VolumeRecord) -> SnapshotRecord | None:
        return self._store.snapshot(record.id, record.head) if record.head is not None else None

    @property
    def record(self) -> VolumeRecord:
        """The record as it is stored."""
        return self._record

    @property
    def head(self) -> SnapshotRecord | None:
        """The newest snapshot."""
        return self._head

    def commit(self, batch: Batch, snapshot: SnapshotRecord | None = None, **changes: Any) -> None:
        """Store the batch and the changed record in one durable transaction."""
        with self._lock:
            record = replace(self._record, **changes)
            if snapshot is not None:
                record = replace(record, head=snapshot.seq, next_seq=snapshot.seq + 1)
                batch.snapshots.append(snapshot)
            batch.volumes.append(record)
            try:
                self._store.commit(batch)
            except BaseException:
                # It may be stored all the same: what counts is what the store has.
                stored = {record.id: record for record in self._store.volumes()}
                self._record = stored.get(record.id, self._record)
                self._head = self._newest(self._record)
                raise
            self._record = record
            self._head = snapshot or self._head

    def update(self, **changes: Any) -> None:
        """Change fields of the record durably."""
        self.commit(Batch(), **changes)
