"""Calls and messages about snapshots, tags and retention."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from diffkeeper.messages.endpoint import VOLUME, Endpoint, NoArguments, NoBody

FORGET_PER_REQUEST_MAX: Final = 1_000

Change = Literal["added", "removed", "changed"]
Part = Literal["type", "content", "mode", "owner", "xattrs"]


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


class PathState(Struct, frozen=True):
    """What a snapshot records at a path; of a hard link, what it records of the file."""

    type: str  # "file", "directory", "symlink", "fifo", "socket", "char" or "block"
    bytes: int  # of a file
    mode: str  # octal: permissions, set-id and sticky bits
    uid: int
    gid: int


class PathDifference(Struct, frozen=True):
    """One path in which two snapshots differ."""

    path: str  # bytes that are no UTF-8 are lone surrogates; "." is the volume's top directory
    change: Change
    parts: list[Part]  # what differs where it was changed; times do not count
    before: PathState | None  # null where it was added
    after: PathState | None  # null where it was removed


class DiffPage(Struct, frozen=True):
    """A page of differences; a directory comes before what is below it."""

    old: int  # seq, to be asked for with the next page
    new: int
    differences: list[PathDifference]
    next: str | None  # path after which the next page begins; null where this is the last one


class DiffRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Two snapshots, null for the newest crash-consistent one."""

    old: str | None = None
    new: str | None = None
    new_volume: str | None = None  # that `new` is of; null for the volume in the path
    after: str | None = None  # a path: only differences that follow it


class TagRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A tag, and the snapshot that gets it; null for the newest crash-consistent one."""

    tag: str
    snapshot: str | None = None


class ForgetRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Snapshots to be forgotten."""

    snapshots: Annotated[list[str], Meta(min_length=1, max_length=FORGET_PER_REQUEST_MAX)]


class PruneRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A volume, null for all; whether to only list what would be forgotten."""

    volume: str | None = None
    dry_run: bool = False


SNAPSHOTS: Final = Endpoint(
    "GET",
    f"{VOLUME}/snapshots",
    NoBody,
    list[SnapshotView],
    "The snapshots of one volume, oldest first.",
)
SNAPSHOT: Final = Endpoint(
    "POST",
    f"{VOLUME}/snapshots",
    NoArguments,
    SnapshotView,
    "Take a snapshot now; answers when it is durable.",
    status=201,
)
RESOLVE: Final = Endpoint(
    "GET",
    f"{VOLUME}/resolve",
    NoBody,
    SnapshotView,
    "The snapshot that a reference names; the newest crash-consistent one without a reference.",
    query="snapshot",
)
GROUP: Final = Endpoint(
    "GET",
    f"{VOLUME}/group",
    NoBody,
    list[GroupMember],
    "The snapshots of all volumes at the instant of one; without a reference the newest.",
    query="snapshot",
)
DIFF: Final = Endpoint(
    "POST",
    f"{VOLUME}/diff",
    DiffRequest,
    DiffPage,
    "Paths in which two snapshots differ, by name, a page of them.",
)
RECORDS: Final = Endpoint(
    "GET",
    f"{VOLUME}/records",
    NoBody,
    RecordsPage,
    "Stored records of a volume and of its snapshots past a sequence number, a page of them.",
    query="after",
)
TAG: Final = Endpoint(
    "POST",
    f"{VOLUME}/tags",
    TagRequest,
    SnapshotView,
    "Tag a snapshot; answers the snapshot.",
    status=201,
)
UNTAG: Final = Endpoint(
    "DELETE",
    f"{VOLUME}/tags/{{tag}}",
    NoBody,
    Untagged,
    "Remove a tag; answers its snapshot's number.",
)
FORGET: Final = Endpoint(
    "POST",
    f"{VOLUME}/forget",
    ForgetRequest,
    Forgotten,
    "Forget snapshots, all of them or none; answers their numbers.",
)
PRUNE: Final = Endpoint(
    "POST",
    "/v1/prune",
    PruneRequest,
    list[Pruning],
    "Forget what retention does not keep, or only list it; answers per volume.",
)
