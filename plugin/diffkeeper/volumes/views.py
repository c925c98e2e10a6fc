"""Values that the volume service returns to its callers; no behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffkeeper.integrity.verify import Result

Json = dict[str, object]
CLONE = "clone"  # reason of the first snapshot of a clone


@dataclass(frozen=True, slots=True)
class SnapshotView:
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


@dataclass(frozen=True, slots=True)
class GroupMember:
    """One volume's snapshot of a group's instant; the volume may have been removed since."""

    volume: str
    snapshot: SnapshotView


@dataclass(frozen=True, slots=True)
class TrashView:
    """One removed volume."""

    name: str
    id: int
    removed: str  # RFC 3339
    purge: str  # RFC 3339: when it is deleted for good
    bytes: int  # logical bytes of its newest snapshot
    snapshots: int
    live: bool  # its live directory is kept: the last state could not be captured at one instant


@dataclass(frozen=True, slots=True)
class Pruning:
    """What retention forgets of one volume."""

    volume: str
    retention: str
    forgotten: list[int]  # sequence numbers
    left: int  # snapshots that stay
    note: str = ""  # why time counts here that does not count for retention by itself


@dataclass(frozen=True, slots=True)
class VolumeView:
    """One volume as the VolumeDriver protocol and the admin API show it."""

    name: str
    created_at: str  # RFC 3339 with a zone
    mountpoint: str  # "" while nothing has it mounted
    on_host: str  # the live directory as the host names it; "" where that is not known
    options: dict[str, str] = field(default_factory=dict)
    mounts: int = 0
    status: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FeatureView:
    """One feature that eBPF captures need or use, see `sources.ebpf.features`."""

    name: str
    support: str  # "supported", "unsupported" or "unknown"
    reason: str


@dataclass(frozen=True, slots=True)
class Fault:
    """One path that failed verification, and why."""

    path: str
    problem: str
    damaged: bool = False  # nobody wrote to it, so `repair` is offered


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Outcome of a verification; `ok` is false if there is any fault."""

    volume: str
    seq: int | None  # the snapshot that was verified against; None when there is none yet
    root: str
    ok: bool
    complete: bool  # false when its time budget ran out
    files: int
    bytes: int
    milliseconds: float
    faults: tuple[Fault, ...] = ()
    repair: str = ""  # command that repairs what is damaged; "" where nothing is


@dataclass(frozen=True, slots=True)
class RepairedFile:
    """One damaged file. Bytes of a path that are no UTF-8 are lone surrogates."""

    path: str
    other_names: list[str]  # other hard links of the file that were found or named
    outcome: str  # "damaged" (a dry run), "repaired" or "failed"
    bytes: int  # of the chunks that differ
    unreadable_bytes: int  # of these, bytes that the disk does not return
    ranges: list[tuple[int, int]]  # [start, end) of some of them
    ranges_left_out: int
    problem: str = ""  # why it failed


@dataclass(frozen=True, slots=True)
class Kept:
    """The snapshot of what was on disk before a repair, and its tag."""

    seq: int
    tag: str


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair found and did."""

    volume: str
    seq: int  # the snapshot whose bytes were put back
    root: str
    dry_run: bool
    complete: bool  # false when one verification was not enough: repair again
    files: list[RepairedFile]
    whole: list[str]  # named, and not damaged
    refused: list[Fault]  # they differ, and cannot be repaired
    kept: Kept | None


def repair_command(volume: str, result: Result) -> str:
    """The command that repairs what the verification found; "" where there is nothing to repair."""
    return f"diffkeeper repair {volume}" if any(m.damaged for m in result.mismatches) else ""
