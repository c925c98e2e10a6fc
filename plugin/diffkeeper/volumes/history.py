"""The stored snapshots of volumes: lists, references to one, groups. Blocks on the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper import limits
from diffkeeper.errors import InvalidInputError, NotFoundError
from diffkeeper.volumes.model import GroupMember, SnapshotView
from diffkeeper.volumes.options import shown
from diffkeeper.volumes.status import snapshot_view

if TYPE_CHECKING:
    from diffkeeper.format.records import SnapshotRecord, VolumeRecord
    from diffkeeper.store.store import Store


class History:
    """The history in one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def _names(self) -> dict[int, str]:
        """Names of all volumes by id, of removed ones too."""
        return {record.id: record.name for record in self._store.volumes()}

    def view(self, record: SnapshotRecord) -> SnapshotView:
        """A snapshot as it is shown."""
        return snapshot_view(record, self._names())

    def views(self, volume: VolumeRecord) -> list[SnapshotView]:
        """All snapshots of a volume, oldest first."""
        names = self._names()
        return [snapshot_view(record, names) for record in self._store.snapshots(volume.id)]

    def resolve(self, volume: VolumeRecord, reference: str | None) -> SnapshotRecord:
        """The snapshot that a sequence number or the start of a root names; default: the newest
        crash-consistent one. Raises NotFoundError, InvalidInputError.
        """
        if reference is None:
            newest = self._store.newest_crash(volume.id)
            if newest is None:
                raise NotFoundError(f"volume {volume.name} has no crash-consistent snapshot")
            return newest
        if reference.isdecimal() and len(reference) <= limits.SEQ_DIGITS_MAX:
            try:
                return self._store.snapshot(volume.id, int(reference))
            except NotFoundError:
                raise NotFoundError(f"volume {volume.name} has no snapshot {reference}") from None
        if len(reference) >= limits.ROOT_PREFIX_MIN and set(reference) <= set("0123456789abcdef"):
            for record in self._store.snapshots(volume.id, reverse=True):
                if record.root.startswith(reference):
                    return record
            raise NotFoundError(f"volume {volume.name} has no snapshot with root {reference}…")
        raise InvalidInputError(
            f"{shown(reference)} names no snapshot: give a sequence number or at"
            f" least {limits.ROOT_PREFIX_MIN} hex digits of a root"
        )

    def group(self, volume: VolumeRecord, reference: str | None) -> list[GroupMember]:
        """The snapshots of all volumes at the instant of a snapshot, by volume id.

        Without a reference: the newest crash-consistent instant that the volume was a part of.
        Raises NotFoundError when the snapshot was taken of the volume alone.
        """
        record = self.resolve(volume, reference)
        if reference is None:
            record = self._newest_group(record)
        if not record.group:
            raise NotFoundError(
                f"snapshot {record.seq} of {volume.name} belongs to no group: no other volume was"
                " captured with it"
            )
        names = self._names()
        members = sorted((int(number), seq) for number, seq in record.group.items())
        return [
            GroupMember(names[number], snapshot_view(self._store.snapshot(number, seq), names))
            for number, seq in members
        ]

    def _newest_group(self, record: SnapshotRecord) -> SnapshotRecord:
        """The newest instant of the group: a volume that did not change has no snapshot of it."""
        number = str(record.volume_id)
        for other in map(int, record.group):
            newest = self._store.newest_crash(other)
            part = newest is not None and newest.group.get(number) == record.seq
            if newest is not None and part and newest.time_ns > record.time_ns:
                record = newest
        return record
