"""Removed volumes: what is kept of them, how one is brought back, and when it is purged.

A removed volume keeps its record and its snapshots. Its live directory is deleted at once if its
last state is in the store, and otherwise stays until the volume is purged. Blocks.
"""

from __future__ import annotations

import logging
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from diffkeeper import clock, counters, failpoint, limits
from diffkeeper.errors import ConflictError, DiffKeeperError, NotFoundError
from diffkeeper.format.ids import SnapshotId
from diffkeeper.fsio import durable, project_quota
from diffkeeper.messages.trash import TrashView
from diffkeeper.snapshot import exclusions
from diffkeeper.store.store import Batch
from diffkeeper.volumes import lifecycle
from diffkeeper.volumes.lifecycle import Event, Facts
from diffkeeper.volumes.names import shown
from diffkeeper.volumes.trash_time import kept_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from diffkeeper.format.records import VolumeRecord
    from diffkeeper.history.retention_clock import RetentionClock
    from diffkeeper.store.store import Store
    from diffkeeper.volumes.layout import Layout
    from diffkeeper.volumes.volume import Volume

log = logging.getLogger(__name__)

TRASH_VOLUMES_MAX = 10_000


class Trash:
    """The removed volumes of one store, whose directories are below `volumes`.

    `seconds`: how long a volume without an option of its own can be brought back, by the clock
    `age`. `bytes_max`: bytes in the store that volumes without a live directory may take together.
    """

    def __init__(
        self,
        store: Store,
        layout: Layout,
        seconds: float,
        age: RetentionClock,
        bytes_max: int = sys.maxsize,
    ) -> None:
        self._store = store
        self._layout = layout
        self._seconds = seconds
        self._bytes_max = bytes_max
        self._age = age
        self._lock = threading.Lock()
        self._records: dict[int, VolumeRecord] = {}
        self._left: dict[int, str] = {}  # volume to files that could not be deleted
        self._bytes: dict[int, int] = {}  # logical bytes of their newest snapshots, once measured
        self._stored: Mapping[int, int] = {}  # see `counted`

    def add(self, record: VolumeRecord) -> None:
        """Add a volume that was removed now, or before the daemon started."""
        with self._lock:
            self._records[record.id] = record

    def troubles(self) -> list[str]:
        """Removed volumes of which files could not be deleted, and why."""
        with self._lock:
            return list(self._left.values())

    def measure(self) -> None:
        """Measure the volumes that were added since, for `figures`. CorruptionError."""
        records = self.records()
        known = self._bytes
        self._bytes = {r.id: known[r.id] if r.id in known else self._size(r) for r in records}

    def figures(self) -> dict[str, float]:
        """Number of volumes, their bytes as last measured, and when the next one is purged; that
        one is absent for an empty trash. Reads memory only.
        """
        records, sizes = self.records(), self._bytes
        found = {
            **self.stored(),
            "trash_volumes": float(len(records)),
            "trash_bytes": float(sum(sizes.get(record.id, 0) for record in records)),
        }
        if records:
            left = min(map(self._ends_ns, records)) - clock.now_ns()
            found["trash_next_purge_seconds"] = max(0.0, round(left / 1e9, 3))
        return found

    def counted(self, stored: Mapping[int, int]) -> None:
        """Set the stored bytes that each volume gives back once those removed before it are
        purged.
        """
        self._stored = stored

    def stored(self) -> dict[str, float]:
        """Stored bytes that only the trash takes, as last counted, and their bound; reads memory
        only.
        """
        taken = self._stored
        with self._lock:
            there = sum(taken.get(number, 0) for number in self._records)
        return {"trash_stored_bytes": float(there), "trash_max_bytes": float(self._bytes_max)}

    def records(self) -> list[VolumeRecord]:
        """Records of all removed volumes, first removed first."""
        with self._lock:
            return sorted(self._records.values(), key=_removed)

    def find(self, reference: str) -> VolumeRecord:
        """The removed volume of this name, or else of this id; NotFoundError.

        ConflictError, naming their ids, where several removed volumes had the name.
        """
        records = self.records()
        named = [r for r in records if r.name == reference]
        named = named or [r for r in records if str(r.id) == reference]
        if not named:
            raise NotFoundError(f"no volume {shown(reference)} is in the trash")
        if len(named) > 1:
            ids = ", ".join(f"{r.id} (removed {clock.rfc3339(_removed(r))})" for r in named)
            raise ConflictError(
                f"{len(named)} volumes in the trash had the name {reference}; name one by its id:"
                f" {ids}"
            )
        return named[0]

    def views(self) -> list[TrashView]:
        """Views of all removed volumes."""
        return [self._view(record) for record in self.records()]

    def _ends_ns(self, record: VolumeRecord) -> int:
        """When the volume is due to be purged, by the wall clock."""
        return self._age.comes_ns(_removed(record) + self._kept_ns(record))

    def _kept_ns(self, record: VolumeRecord) -> int:
        return round(kept_seconds(record.name, record.options, self._seconds) * 1e9)

    def _size(self, record: VolumeRecord) -> int:
        head = None
        if record.head is not None:
            head = next(self._store.snapshots(record.id, reverse=True), None)
        return head.bytes if head is not None else 0

    def _view(self, record: VolumeRecord) -> TrashView:
        return TrashView(
            name=record.name,
            id=record.id,
            removed=clock.rfc3339(_removed(record)),
            purge=clock.rfc3339(self._ends_ns(record)),
            bytes=self._size(record),
            snapshots=self._store.snapshot_count(record.id),
            live=self._kept(record),
        )

    def _kept(self, record: VolumeRecord) -> bool:
        """Whether its live directory stays with it."""
        return not record.clean and self._has_live(record.id)

    def _require(self, record: VolumeRecord, event: Event) -> None:
        """ConflictError where the volume's state does not list the event."""
        stored, kept = record.head is not None, self._kept(record)
        facts = Facts(mounted=bool(record.mounts), live=kept, stored=stored, removed=True)
        lifecycle.require(lifecycle.state_of(facts), event)

    def restore(self, record: VolumeRecord, name: str) -> VolumeRecord:
        """Turn it into a volume of this free name; returns the stored record. NotFoundError when it
        was purged meanwhile.
        """
        with self._claimed(record):
            self._require(record, Event.UNDELETE)
            # No boot has mounted it: its first mount replays it, not the daemon's next start.
            back = replace(record, name=name, removed_ns=None, boot_id="")
            failpoint.hit("undelete.before_commit")
            self._store.commit(Batch(volumes=[back], names_put={name: back.id}))
            failpoint.hit("undelete.after_commit")
        return back

    @contextmanager
    def _claimed(self, record: VolumeRecord) -> Iterator[None]:
        """Take the volume out of the trash for the block, so that no other call restores or purges
        it; it is put back if the block fails.
        """
        with self._lock:
            if self._records.pop(record.id, None) is None:
                raise NotFoundError(f"volume {record.name} ({record.id}) is not in the trash")
        try:
            yield
        except BaseException:
            self.add(record)
            raise

    def remove(self, volume: Volume, capture: Callable[[], object]) -> str | None:
        """Remove a volume that is not mounted, with its last state, taken by `capture`.

        Returns the path where its live directory waits to be deleted; None when the live directory
        stays, because its content is not in the store at one instant.
        """
        captured = self._captured(volume, capture)
        volume.close()
        failpoint.hit("volume.before_remove")
        volume.released()
        number = volume.state.record.id
        batch = Batch(names_del={volume.name}, drop_index={number})
        volume.state.commit(batch, removed_ns=clock.now_ns(), clean=captured)
        failpoint.hit("volume.after_remove")
        self.add(volume.state.record)  # from here on it can be restored
        return self._moved(volume.state.record) if captured else None

    def _moved(self, record: VolumeRecord) -> str | None:
        """Path where the live directory waits to be deleted. Errors are logged: the volume is
        removed, and the next start of the daemon tries this again.
        """
        try:
            return self.discard(record.id)
        except (DiffKeeperError, OSError) as error:
            self._leave(record, error)
            return None

    def _leave(self, record: VolumeRecord, error: Exception) -> None:
        with self._lock:
            self._left[record.id] = f"{record.name} was removed, but not all of its files: {error}"
        fields = {"volume": record.name, "id": record.id, "error": str(error)}
        log.error("removal_incomplete", extra=fields)

    def _captured(self, volume: Volume, capture: Callable[[], object]) -> bool:
        """Whether the newest snapshot has all of the live directory, at one instant, or there is
        none.
        """
        error = ""
        try:
            if not volume.present:
                return True
            volume.open()
            capture()
            if volume.hinted():  # since the last scan of that capture
                error = "it is written to"
        except (DiffKeeperError, OSError) as failure:
            error = str(failure)
        head = volume.state.head
        meant = ("", exclusions.cause_of(volume.options.policy.exclude))
        if not error and head and head.consistency == "crash" and head.cause in meant:
            return True
        cause = head.cause if head is not None else "there is no snapshot"
        fields = {"volume": volume.name, "error": error or f"the last snapshot is not all: {cause}"}
        log.error("remove_capture_failed", extra={**fields, "kept": volume.live})
        return False

    # Directories

    def _has_live(self, number: int) -> bool:
        """Whether there is a live directory; true where that cannot be found out."""
        try:
            return durable.is_there(self._layout.volume(number).live)
        except OSError:
            return True

    def discard(self, number: int) -> str:
        """Move a live directory out of the way; returns the path where it waits to be deleted."""
        paths = self._layout.volume(number)
        project_quota.lift(paths.live, number)
        if durable.is_there(paths.live):
            durable.remove_tree(paths.removed)
            durable.rename_directory(paths.live, paths.removed)
        return paths.removed

    def leftovers(self) -> list[str]:
        """Directories that removals and purges left behind when the daemon was killed."""
        found = (self._moved(record) for record in self.records() if record.clean)
        return [path for path in found if path is not None]

    # The end

    def purge(self, record: VolumeRecord, cause: str = "asked") -> None:
        """Delete everything that is left of the volume; an interrupted purge can be repeated.

        Files that cannot be deleted, such as immutable ones, stay and are reported; everything else
        is deleted. NotFoundError when it was purged meanwhile.
        """
        with self._claimed(record):
            self._require(record, Event.PURGE)
            try:
                paths = self._layout.volume(record.id)
                project_quota.lift(paths.live, record.id)
                durable.remove_tree(paths.directory)
                with self._lock:
                    self._left.pop(record.id, None)
            except (DiffKeeperError, OSError) as error:
                self._leave(record, error)
            while not self._purged_some(record.id):
                pass
        counters.add("purged_total")
        log.info("purged", extra={"volume": record.name, "id": record.id, "cause": cause})

    def _purged_some(self, number: int) -> bool:
        """One transaction of a purge, oldest snapshots first; true when it was the last one."""
        found = self._store.snapshots(number)
        some = [s.seq for s, _ in zip(found, range(limits.FORGET_BATCH_MAX), strict=False)]
        gone = set(some)
        tags = {(number, tag) for tag, seq in self._store.tags(number).items() if seq in gone}
        batch = Batch(snapshots_del={SnapshotId(number, seq) for seq in some}, tags_del=tags)
        last = len(some) < limits.FORGET_BATCH_MAX
        if last:
            batch.volumes_del, batch.drop_index = {number}, {number}
            failpoint.hit("trash.before_purge")
        failpoint.hit("forget.before_commit")
        self._store.commit(batch)
        failpoint.hit("forget.after_commit")
        if last:
            failpoint.hit("trash.after_purge")
        return last

    def purge_first(self, seconds: float) -> int | None:
        """Purge the first removed volume without a live directory, if it was removed so long ago:
        its logical bytes as last measured; None if there is no such volume.
        """
        latest = self._age.now_ns() - round(seconds * 1e9)
        for record in self.records():
            if record.clean and _removed(record) <= latest:
                self.purge(record, "room")
                return self._bytes.get(record.id, 0)
        return None

    def purge_due(self) -> int:
        """Purge volumes whose time is over, and the oldest ones of too many or too many bytes;
        returns how many. Errors are logged, and tried again.
        """
        done = 0
        for record, cause in self._due():
            try:
                self.purge(record, cause)
            except (DiffKeeperError, OSError) as error:
                fields = {"volume": record.name, "id": record.id, "error": str(error)}
                log.error("purge_failed", extra=fields)
            else:
                done += 1
        return done

    def _due(self) -> Iterator[tuple[VolumeRecord, str]]:
        """Volumes to purge now, and why, first removed first."""
        now_ns, stored = self._age.now_ns(), self._stored
        records = self.records()
        excess = sum(stored.get(record.id, 0) for record in records) - self._bytes_max
        for index, record in enumerate(records):
            cause = ""
            if _removed(record) + self._kept_ns(record) <= now_ns:
                cause = "time"
            elif len(records) - index > TRASH_VOLUMES_MAX:
                cause = "number"
            elif excess > 0 and record.id in stored and record.clean:
                cause = "trash-max"
            if cause:
                excess -= stored.get(record.id, 0)
                yield record, cause


def _removed(record: VolumeRecord) -> int:
    """When the volume was removed, nanoseconds since the epoch."""
    return record.removed_ns or 0
