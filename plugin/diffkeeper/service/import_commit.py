"""Makes an imported volume visible, whole or not at all, in transactions of bounded size. Blocks.

Its snapshots are stored first, some at a time, under an id that no volume has; only garbage
collection sees them, and keeps their objects. The volume's record, its name and its tags are the
last transaction. `meta` has the id of the last import, so that the next daemon removes what a
killed one left of it.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from diffkeeper import clock, failpoint, limits
from diffkeeper.errors import BusyError
from diffkeeper.history.references import check_tag
from diffkeeper.store import tables
from diffkeeper.store.store import Batch
from diffkeeper.volumes.options import parse_options

if TYPE_CHECKING:
    from diffkeeper.format.records import VolumeRecord
    from diffkeeper.store.store import Store
    from diffkeeper.transfer.archive_read import Imported

IMPORT_RECORDS_MAX = 128  # in one transaction


class Adoption:
    """One import under way: `store`, then `finish`, or `discard` at any point. One at a time.

    InvalidInputError when this release does not know the options, or a tag is malformed.
    """

    def __init__(self, store: Store, name: str, imported: Imported) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._ended = False
        options = {k: v for k, v in imported.volume.options.items() if k != "from"}
        parse_options(options)
        self._tags = {check_tag(tag): seq for tag, seq in imported.tags.items()}
        self._snapshots = imported.snapshots
        self._record = replace(
            imported.volume, name=name, created_ns=clock.now_ns(), options=options
        )

    def store(self) -> None:
        """Store the snapshots' records. NoSpaceError; BusyError when it is discarded meanwhile."""
        with self._lock:
            remove_unfinished(self._store)
            number = self._store.next_volume_id()
            self._record = replace(self._record, id=number)
            self._store.numbers.put({tables.META_IMPORTING: number}, "adopt")
            records = iter(self._snapshots)
            while some := list(islice(records, IMPORT_RECORDS_MAX)):
                if self._ended:
                    raise BusyError("the import was ended")
                self._store.commit(Batch(snapshots=[replace(s, volume_id=number) for s in some]))
                failpoint.hit("import.records_stored")

    def finish(self) -> VolumeRecord:
        """Make it visible, in one transaction; returns its record."""
        with self._lock:
            record = self._record
            tags = {(record.id, tag): seq for tag, seq in self._tags.items()}
            failpoint.hit("import.before_commit")
            self._store.commit(
                Batch(volumes=[record], names_put={record.name: record.id}, tags_put=tags)
            )
            self._ended = True
            failpoint.hit("import.after_commit")
            return record

    def discard(self) -> None:
        """Remove what is stored, unless it is visible; waits for a step under way."""
        self._ended = True
        with self._lock:
            remove_unfinished(self._store)


def remove_unfinished(store: Store) -> None:
    """Remove what an import left that did not complete, some records at a time."""
    number = store.numbers.get(tables.META_IMPORTING)
    if not number:
        return
    if all(record.id != number for record in store.volumes()):
        while some := list(islice(store.snapshots(number), limits.FORGET_BATCH_MAX)):
            store.commit(Batch(snapshots_del={each.id for each in some}))
    store.numbers.put({tables.META_IMPORTING: 0}, "adopt")
