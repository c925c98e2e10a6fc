"""The stored snapshots of volumes: lists, references, groups. Blocks on the store."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from diffkeeper import clock, limits
from diffkeeper.errors import NotFoundError
from diffkeeper.messages.snapshots import GroupMember, RecordsPage, SnapshotView
from diffkeeper.store.tables import FORMAT_VERSION
from diffkeeper.volumes.status import snapshot_view

if TYPE_CHECKING:
    from diffkeeper.format.records import SnapshotRecord, VolumeRecord
    from diffkeeper.history.references import Reference
    from diffkeeper.store.store import Store

RECORDS_PER_REQUEST = 512


class History:
    """The history in one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def _names(self) -> dict[int, str]:
        """Names of all volumes by id, including removed ones."""
        return {record.id: record.name for record in self._store.volumes()}

    def view(self, record: SnapshotRecord) -> SnapshotView:
        """A snapshot as shown."""
        return snapshot_view(
            record, self._names(), self._store.tags(record.volume_id), self._store.damaged
        )

    def views(self, volume: VolumeRecord) -> list[SnapshotView]:
        """All snapshots of a volume, oldest first."""
        names, tags = self._names(), self._store.tags(volume.id)
        damaged = self._store.damaged
        return [
            snapshot_view(record, names, tags, damaged)
            for record in self._store.snapshots(volume.id)
        ]

    def records(self, volume: VolumeRecord, after: int) -> RecordsPage:
        """For an export: the volume's record, and its next snapshots with a higher seq."""
        found = self._store.snapshots(volume.id, start=after + 1)
        page = islice(found, RECORDS_PER_REQUEST)
        return RecordsPage(
            format=FORMAT_VERSION,
            volume=volume.encode().decode(),
            snapshots=[record.encode().decode() for record in page],
            tags=self._store.tags(volume.id),
        )

    def resolve(self, volume: VolumeRecord, reference: Reference | None) -> SnapshotRecord:
        """The snapshot that a reference names, see `references.parse_reference`.

        A number, root or tag names one snapshot, `crash` or fuzzy. A time, an age, `latest`, or no
        reference names the newest crash-consistent one up to then. NotFoundError.
        """
        if reference is None:
            return self._at(volume, None)
        match reference.kind:
            case "seq":
                return self._numbered(volume, reference)
            case "root":
                return self._rooted(volume, reference.text)
            case "tag":
                return self._tagged(volume, reference.text)
            case "age":
                return self._at(volume, clock.now_ns() - reference.number)
            case "time":
                return self._at(volume, reference.number)
        return self._at(volume, None)

    def _numbered(self, volume: VolumeRecord, reference: Reference) -> SnapshotRecord:
        try:
            return self._store.snapshot(volume.id, reference.number)
        except NotFoundError:
            if len(reference.text) >= limits.ROOT_PREFIX_MIN:
                return self._rooted(volume, reference.text)  # digits alone may start a root
            gone = reference.number in range(1, volume.next_seq)
            raise NotFoundError(
                f"volume {volume.name} has no snapshot {reference.text}"
                + (" any more: it was forgotten" if gone else "")
            ) from None

    def _rooted(self, volume: VolumeRecord, start: str) -> SnapshotRecord:
        for record in self._store.snapshots(volume.id, reverse=True):
            if record.root.hex().startswith(start):
                return record
        raise NotFoundError(f"volume {volume.name} has no snapshot with root {start}…")

    def _tagged(self, volume: VolumeRecord, tag: str) -> SnapshotRecord:
        seq = self._store.tags(volume.id).get(tag)
        if seq is None:
            raise NotFoundError(f"volume {volume.name} has no snapshot tagged {tag}")
        return self._store.snapshot(volume.id, seq)

    def _at(self, volume: VolumeRecord, time_ns: int | None) -> SnapshotRecord:
        """The newest crash-consistent snapshot, up to a moment if one is given."""
        for record in self._store.snapshots(volume.id, reverse=True):
            if record.consistency == "crash" and (time_ns is None or record.time_ns <= time_ns):
                return record
        when = f" of {clock.rfc3339(max(0, time_ns))} or before" if time_ns is not None else ""
        raise NotFoundError(f"volume {volume.name} has no crash-consistent snapshot{when}")

    def group(self, volume: VolumeRecord, reference: Reference | None) -> list[GroupMember]:
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
        return [self._member(number, seq, names) for number, seq in members]

    def _member(self, number: int, seq: int, names: dict[int, str]) -> GroupMember:
        name = names.get(number, f"#{number}")
        try:
            record = self._store.snapshot(number, seq)
        except NotFoundError:
            raise NotFoundError(
                f"snapshot {seq} of {name} at that instant was forgotten; choose another one, or"
                " restore each volume by itself"
            ) from None
        tags, damaged = self._store.tags(number), self._store.damaged
        return GroupMember(name, snapshot_view(record, names, tags, damaged))

    def _newest_group(self, record: SnapshotRecord) -> SnapshotRecord:
        """The newest instant of the group: a volume that did not change has no snapshot of its own
        then.
        """
        number = str(record.volume_id)
        for other in map(int, record.group):
            newest = self._store.newest_crash(other)
            part = newest is not None and newest.group.get(number) == record.seq
            if newest is not None and part and newest.time_ns > record.time_ns:
                record = newest
        return record


def power_cut_tag(store: Store, record: VolumeRecord) -> dict[tuple[int, str], int]:
    """A tag for the newest snapshot before a power cut: what is captured next may be older."""
    tags = store.tags(record.id)
    if record.head is None or record.head in tags.values() or len(tags) >= limits.TAGS_MAX:
        return {}
    when = re.sub(r"[-:]|\..*", "", clock.rfc3339(clock.now_ns()))
    return {(record.id, f"power-cut-{when}"): record.head}
