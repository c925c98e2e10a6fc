"""Calls and messages about the store: objects, usage, statistics, reports."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from diffkeeper.messages.endpoint import Endpoint, NoArguments, NoBody
from diffkeeper.messages.integrity import ScrubStatus

DIGEST_DIGITS: Final = 64
OBJECTS_PER_REQUEST_MAX: Final = 256

KindName = Literal["chunk", "node"]
Digest = Annotated[
    str, Meta(pattern="^[0-9a-f]+$", min_length=DIGEST_DIGITS, max_length=DIGEST_DIGITS)
]


class UsageFigures(Struct, frozen=True, kw_only=True):
    """What one volume takes, or all together. Bytes; plain ones without Merkle nodes."""

    logical_bytes: int  # of all files in the newest snapshot
    history_bytes: int  # the same, summed over all snapshots
    snapshots: int
    unique_bytes: int  # plain bytes that no other volume has
    shared_bytes: int  # plain bytes that another volume has, too
    stored_bytes: int  # encoded, of all that it reaches
    unique_stored_bytes: int  # encoded, of what it alone reaches: what it takes
    ratio: float | None  # of its snapshots as full copies to what is stored
    growth_bytes_per_day: int | None  # None: there are not sixty seconds of history


class VolumeUsage(UsageFigures, frozen=True, kw_only=True):
    """What one volume takes, and when and how it was counted."""

    time: str
    age_seconds: float
    seconds: float
    sampled_one_in: int
    unreadable_snapshots: int


class UsageCount(Struct, frozen=True, kw_only=True):
    """When and how volumes were counted."""

    time: str
    age_seconds: float
    seconds: float  # that it took
    sampled_one_in: int  # 1 is exact
    unreadable_snapshots: int  # that could not be walked to the end


class StoreUsage(UsageCount, frozen=True, kw_only=True):
    """What all volumes take, and when and how it was counted."""

    total: UsageFigures
    volumes: dict[str, VolumeUsage]


class StoreStatistics(Struct, frozen=True, kw_only=True):
    """Sizes of the store and of all volumes, in bytes."""

    volumes: int
    snapshots: int
    logical_bytes: int
    unique_bytes: int
    stored_bytes: int
    store_used_bytes: int
    store_file_bytes: int
    store_max_bytes: int
    trash_stored_bytes: int
    trash_max_bytes: int
    store_reserve_bytes: int
    maintenance_wait_ms_max: float
    scrub: ScrubStatus
    accounting: StoreUsage | None  # None before the first count


class MaintenanceReport(Struct):
    """Report of what was done. Bytes are of the store's used pages, before and after."""

    versions: int = 0  # superseded ones that were stored anew
    deltas: int = 0  # of them as deltas
    collected: int = 0  # runs of the garbage collection that came to their end
    packs_removed: int = 0
    moved_bytes: int = 0
    used_bytes_before: int = 0
    used_bytes_after: int = 0
    seconds: float = 0.0
    wait_ms_max: float = 0.0  # that a commit waited for maintenance since the start
    damage: list[str] = field(default_factory=list)


class CompactReport(Struct, frozen=True):
    """Bytes allocated for the store's file, before and after."""

    store_file_bytes_before: int
    store_file_bytes: int


class ObjectsRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Kind and digest of each wanted object."""

    objects: Annotated[list[tuple[KindName, Digest]], Meta(max_length=OBJECTS_PER_REQUEST_MAX)]


STATISTICS: Final = Endpoint(
    "GET",
    "/v1/stats",
    NoBody,
    StoreStatistics,
    "Totals of the store.",
)
COUNT: Final = Endpoint(
    "POST",
    "/v1/stats",
    NoArguments,
    StoreStatistics,
    "The same, with what each volume takes counted anew.",
)
MAINTAIN: Final = Endpoint(
    "POST",
    "/v1/maintain",
    NoArguments,
    MaintenanceReport,
    "Do all maintenance that is due; answers with what was done when it is done.",
)
COMPACT: Final = Endpoint(
    "POST",
    "/v1/compact",
    NoArguments,
    CompactReport,
    "Give free room in the store's file back; answers with its size before and after.",
)
OBJECTS: Final = Endpoint(
    "POST",
    "/v1/objects",
    ObjectsRequest,
    bytes,
    "Objects, each encoded by itself, after its length (u32 little endian), in order.",
)
