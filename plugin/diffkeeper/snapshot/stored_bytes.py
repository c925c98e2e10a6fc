"""The bytes that a volume's stored snapshots have added to the store."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

from diffkeeper.errors import CorruptionError, NotFoundError
from diffkeeper.limits import STORE_PAGE_RECORDS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diffkeeper.format.records import SnapshotRecord
    from diffkeeper.store.store import Store


class StoredBytes:
    """The sum of `stored_bytes` over the stored snapshots of one volume. Thread safe.

    Snapshots from `next_seq` on are added when they are stored. Older ones are added by `count`, in
    the background; the sum lacks them until then.
    """

    def __init__(self, store: Store, volume_id: int, next_seq: int) -> None:
        self._store = store
        self._volume_id = volume_id
        self._first = next_seq
        self._counted = 0  # older snapshots below this number are in the sum
        self._lock = threading.Lock()
        self.bytes = 0

    def add(self, snapshot: SnapshotRecord) -> None:
        """Add a snapshot that was just stored."""
        with self._lock:
            self.bytes += snapshot.stored_bytes

    def count(self) -> None:
        """Add the older snapshots that are not in the sum yet; blocks on the store."""
        while self._counted < self._first:
            with self._lock:
                found = self._store.snapshots(self._volume_id, self._counted, self._first)
                some = list(islice(found, STORE_PAGE_RECORDS_MAX))
                self.bytes += sum(each.stored_bytes for each in some)
                self._counted = some[-1].seq + 1 if some else self._first

    @contextmanager
    def forgetting(self, seqs: Sequence[int]) -> Iterator[None]:
        """Subtract these snapshots, which the block removes; undone if it raises."""
        with self._lock:
            known = [seq for seq in seqs if seq < self._counted or seq >= self._first]
            less = sum(map(self._of, known))
            yield
            self.bytes -= less

    def _of(self, seq: int) -> int:
        try:
            return self._store.snapshot(self._volume_id, seq).stored_bytes
        except (CorruptionError, NotFoundError):
            return 0  # a record that cannot be read was not counted, and may be forgotten
