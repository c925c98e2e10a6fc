"""Volumes with snapshots in a store, made without a live directory: for what reads histories."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from diffkeeper import clock
from diffkeeper.format import chunk, dirtree, entry, root
from diffkeeper.format.ids import Root
from diffkeeper.format.records import SnapshotRecord, VolumeRecord
from diffkeeper.hashing import chunk_digest
from diffkeeper.snapshot.volume_state import VolumeState
from diffkeeper.store.store import Batch, Store
from diffkeeper.volumes.options import VolumeOptions, parse_options
from diffkeeper.volumes.volume_status import VolumeStatus
from tests.support.stored import nodes_into

if TYPE_CHECKING:
    from diffkeeper.volumes.volume import Volume

DAY = 86_400
HOUR_NS = 3600 * 10**9
FILE_BYTES = 5000


@dataclass
class RetainedVolume:
    """What retention knows of a volume: its record, options and status."""

    state: VolumeState
    status: VolumeStatus = field(default_factory=lambda: VolumeStatus({}))
    options: VolumeOptions = field(default_factory=VolumeOptions)

    @property
    def name(self) -> str:
        return self.state.record.name


def new(store: Store, name: str, **options: str) -> Volume:
    record = VolumeRecord(store.next_volume_id(), name, 1, dict(options))
    store.commit(Batch(volumes=[record], names_put={name: record.id}))
    made = RetainedVolume(VolumeState(store, record), options=parse_options(options))
    return cast("Volume", made)


def take(volume: Volume, consistency: str = "crash", group: dict[str, int] | None = None) -> int:
    """A snapshot of the present moment."""
    record = volume.state.record
    head = volume.state.head
    snapshot = SnapshotRecord(
        volume_id=record.id,
        seq=record.next_seq,
        parent=head.seq if head is not None else None,
        root=Root(record.next_seq.to_bytes(32)),
        time_ns=clock.now_ns(),
        consistency=consistency,
        reason="interval",
        files=1,
        bytes=1,
        new_bytes=1,
        stored_bytes=1,
        freeze_ms=1.0,
        capture_ms=1.0,
        group=group or {},
    )
    volume.state.commit(Batch(), snapshot)
    return snapshot.seq


def seqs(store: Store, volume: Volume) -> list[int]:
    return [s.seq for s in store.snapshots(volume.state.record.id)]


def stored(
    store: Store, volume: int, seq: int, files: list[bytes], hours_ago: float = 1
) -> SnapshotRecord:
    """Store a snapshot of files with these contents."""
    batch = Batch()
    entries: dict[bytes, entry.Entry | None] = {}
    for number, plain in enumerate(files):
        digest = chunk_digest(plain)
        batch.chunks[digest] = chunk.encode(plain)
        entries[b"f%d" % number] = entry.Entry(
            entry.Kind.FILE, size=len(plain), content=digest, chunk_bits=16
        )
    content = dirtree.apply(entry.EMPTY, entries, store.node, nodes_into(batch))
    top = entry.Entry(entry.Kind.DIRECTORY, mode=0o755 + volume, content=content)
    digest = nodes_into(batch)(root.encode_root(top, entry.EMPTY))
    size = sum(map(len, files))
    made = SnapshotRecord(
        volume, seq, seq - 1 or None, Root(digest), clock.now_ns() - int(hours_ago * HOUR_NS),
        "crash", "manual", len(files), size, size, 1000, 0.0, 0.0,
    )  # fmt: skip
    batch.snapshots.append(made)
    batch.volumes.append(VolumeRecord(volume, f"v{volume}", 1, head=seq, next_seq=seq + 1))
    store.commit(batch)
    return made
