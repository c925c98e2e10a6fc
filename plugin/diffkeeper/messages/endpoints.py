"""The calls of the admin API; the daemon's routes, its clients and docs/openapi.json are made of
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar
from urllib.parse import quote

from msgspec import Struct, structs

from diffkeeper.messages import requests
from diffkeeper.messages.integrity import RepairReport, ScrubReport, VerifyReport
from diffkeeper.messages.machine import Check, DaemonVersion
from diffkeeper.messages.snapshots import (
    Forgotten,
    GroupMember,
    Pruning,
    RecordsPage,
    SnapshotView,
    TrashView,
    Untagged,
)
from diffkeeper.messages.store import CompactReport, MaintenanceReport, StoreStatistics
from diffkeeper.messages.volumes import ImportReport, VolumeView

A_co = TypeVar("A_co", covariant=True)
VOLUME: Final = "/v1/volumes/{name}"


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[A_co]):
    """One call. A request or answer of type `bytes` is a stream of octets, not JSON."""

    method: Literal["GET", "POST", "DELETE"]
    path: str  # with {name} and {tag} where they go
    answer: type[A_co]
    summary: str
    request: type[Struct] | type[bytes] | None = None  # None: it has no body
    query: str = ""  # name of an optional parameter
    status: int = 200  # of success

    @property
    def body_optional(self) -> bool:
        """Whether an empty body is allowed, and means `{}`."""
        if self.request is None or not issubclass(self.request, Struct):
            return False
        return not any(field.required for field in structs.fields(self.request))

    def at(self, query: str | None = None, **names: str) -> str:
        """The path with escaped names; `query`: value of the query parameter."""
        path = self.path.format(**{key: quote(value, safe="") for key, value in names.items()})
        return path if query is None else f"{path}?{self.query}={quote(query, safe='')}"


VERSION: Final = Endpoint(
    "GET",
    "/v1/version",
    DaemonVersion,
    "Version and process of the daemon; also while the state loads.",
)
VOLUMES: Final = Endpoint("GET", "/v1/volumes", list[VolumeView], "All volumes with their status.")
INSPECT: Final = Endpoint("GET", VOLUME, VolumeView, "One volume with its status.")
SET: Final = Endpoint(
    "POST",
    f"{VOLUME}/options",
    VolumeView,
    "Set options of a volume; answers the volume.",
    requests.SetRequest,
)
RENAME: Final = Endpoint(
    "POST",
    f"{VOLUME}/rename",
    VolumeView,
    "Give a volume another name; answers the volume.",
    requests.RenameRequest,
)
SNAPSHOTS: Final = Endpoint(
    "GET",
    f"{VOLUME}/snapshots",
    list[SnapshotView],
    "The snapshots of one volume, oldest first.",
)
SNAPSHOT: Final = Endpoint(
    "POST",
    f"{VOLUME}/snapshots",
    SnapshotView,
    "Take a snapshot now; answers when it is durable.",
    requests.NoArguments,
    status=201,
)
RESOLVE: Final = Endpoint(
    "GET",
    f"{VOLUME}/resolve",
    SnapshotView,
    "The snapshot that a reference names; the newest crash-consistent one without a reference.",
    query="snapshot",
)
GROUP: Final = Endpoint(
    "GET",
    f"{VOLUME}/group",
    list[GroupMember],
    "The snapshots of all volumes at the instant of one; without a reference the newest.",
    query="snapshot",
)
VERIFY: Final = Endpoint(
    "POST",
    f"{VOLUME}/verify",
    VerifyReport,
    "Verify the store's copy of a snapshot, or the live directory against the newest.",
    requests.VerifyRequest,
)
REPAIR: Final = Endpoint(
    "POST",
    f"{VOLUME}/repair",
    RepairReport,
    "Repair damaged files, or only list them; answers a report.",
    requests.RepairRequest,
)
RECORDS: Final = Endpoint(
    "GET",
    f"{VOLUME}/records",
    RecordsPage,
    "Stored records of a volume and of its snapshots past a sequence number, a page of them.",
    query="after",
)
IMPORT: Final = Endpoint(
    "POST",
    f"{VOLUME}/import",
    ImportReport,
    "A new volume from the archive in the body; answers when it is durable.",
    bytes,
    status=201,
)
TAG: Final = Endpoint(
    "POST",
    f"{VOLUME}/tags",
    SnapshotView,
    "Tag a snapshot; answers the snapshot.",
    requests.TagRequest,
    status=201,
)
UNTAG: Final = Endpoint(
    "DELETE", f"{VOLUME}/tags/{{tag}}", Untagged, "Remove a tag; answers its snapshot's number."
)
FORGET: Final = Endpoint(
    "POST",
    f"{VOLUME}/forget",
    Forgotten,
    "Forget snapshots, all of them or none; answers their numbers.",
    requests.ForgetRequest,
)
OBJECTS: Final = Endpoint(
    "POST",
    "/v1/objects",
    bytes,
    "Objects, each encoded by itself, after its length (u32 little endian), in order.",
    requests.ObjectsRequest,
)
PRUNE: Final = Endpoint(
    "POST",
    "/v1/prune",
    list[Pruning],
    "Forget what retention does not keep, or only list it; answers per volume.",
    requests.PruneRequest,
)
TRASH: Final = Endpoint(
    "GET", "/v1/trash", list[TrashView], "The removed volumes, first removed first."
)
EMPTY_TRASH: Final = Endpoint(
    "DELETE",
    "/v1/trash",
    list[TrashView],
    "Purge all removed volumes; answers what they were.",
    requests.NoArguments,
)
PURGE: Final = Endpoint(
    "DELETE",
    "/v1/trash/{name}",
    list[TrashView],
    "Purge one removed volume; answers what it was.",
    requests.NoArguments,
)
UNDELETE: Final = Endpoint(
    "POST",
    "/v1/trash/{name}/undelete",
    VolumeView,
    "Bring a removed volume back; answers the volume.",
    requests.UndeleteRequest,
)
STATISTICS: Final = Endpoint("GET", "/v1/stats", StoreStatistics, "Totals of the store.")
COUNT: Final = Endpoint(
    "POST",
    "/v1/stats",
    StoreStatistics,
    "The same, with what each volume takes counted anew.",
    requests.NoArguments,
)
MAINTAIN: Final = Endpoint(
    "POST",
    "/v1/maintain",
    MaintenanceReport,
    "Do all maintenance that is due; answers with what was done when it is done.",
    requests.NoArguments,
)
COMPACT: Final = Endpoint(
    "POST",
    "/v1/compact",
    CompactReport,
    "Give free room in the store's file back; answers with its size before and after.",
    requests.NoArguments,
)
SCRUB: Final = Endpoint(
    "POST",
    "/v1/scrub",
    ScrubReport,
    "Read every stored object again, heal what is damaged; answers when that is done.",
    requests.NoArguments,
)
DOCTOR: Final = Endpoint(
    "GET",
    "/v1/doctor",
    list[Check],
    "What the daemon finds where it runs; answers while the state is being loaded, too.",
)

ENDPOINTS: Final[tuple[Endpoint[object], ...]] = (
    *(VERSION, VOLUMES, INSPECT, SET, RENAME, SNAPSHOTS, SNAPSHOT, RESOLVE, GROUP, VERIFY, REPAIR),
    *(RECORDS, IMPORT, TAG, UNTAG, FORGET, OBJECTS, PRUNE, TRASH, EMPTY_TRASH, PURGE, UNDELETE),
    *(STATISTICS, COUNT, MAINTAIN, COMPACT, SCRUB, DOCTOR),
)
