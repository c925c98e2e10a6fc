"""Messages about snapshots, retention and trash."""

from __future__ import annotations

from msgspec import Struct, field


class SnapshotView(Struct, frozen=True):
    """One snapshot, as `diffkeeper snapshots --json` prints it."""

    seq: int
    time: str  # RFC 3339, UTC
    root: str  # hex
    parent: int | None  # seq of the snapshot before it
    consistency: str  # "crash" or "fuzzy"
    reason: str  # interval, mount, unmount, manual, reconcile, remove, damaged, repair
    files: int
    bytes: int  # logical bytes of all files
    new_bytes: int  # plain bytes of chunks that were not in the store before
    stored_bytes: int  # encoded bytes of new chunks and nodes
    freeze_ms: float
    capture_ms: float
    group: str = ""  # id of the instant that it shares with other volumes' snapshots
    members: dict[str, int] = field(default_factory=dict)  # volume to seq at that instant
    tags: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)  # some paths that the last scrub found lost


class GroupMember(Struct, frozen=True):
    """One volume's snapshot at an instant of its group; the volume may have been removed since."""

    volume: str
    snapshot: SnapshotView


class RecordsPage(Struct, frozen=True):
    """A page for an export: a volume's record, and its next snapshots' records, as stored."""

    format: int  # version of the store's format
    volume: str  # the record, which is JSON itself
    snapshots: list[str]  # theirs
    tags: dict[str, int]  # to seq


class Untagged(Struct, frozen=True):
    """A tag that was removed, and the snapshot that had it."""

    tag: str
    seq: int


class Forgotten(Struct, frozen=True):
    """Snapshots that were forgotten."""

    forgotten: list[int]  # seqs


class Pruning(Struct, frozen=True):
    """What retention forgets of one volume."""

    volume: str
    retention: str
    forgotten: list[int]  # sequence numbers
    left: int  # snapshots that stay
    note: str = ""  # which time is taken for passed that would not count by itself


class TrashView(Struct, frozen=True):
    """One removed volume."""

    name: str
    id: int
    removed: str  # RFC 3339
    purge: str  # RFC 3339: when it is deleted for good
    bytes: int  # logical bytes of its newest snapshot
    snapshots: int
    live: bool  # its live directory is kept: the last state could not be captured at one instant
