"""Calls and messages about volumes and their status."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import UNSET, Meta, Struct, UnsetType, field

from diffkeeper.messages.endpoint import VOLUME, Endpoint, NoBody, Octets
from diffkeeper.messages.integrity import Fault
from diffkeeper.messages.store import VolumeUsage


class CaptureFigures(Struct, frozen=True):
    """Figures of the last capture."""

    freeze_seconds: float
    capture_seconds: float
    dirty_bytes: int
    rounds: int


class CaptureView(Struct, frozen=True, kw_only=True):
    """How the volume is captured."""

    source: str  # "ebpf", "inotify", "scan"; "none" while nothing has the volume mounted
    reason: str  # why it is this one
    scanned_directories: int  # that cannot be watched
    ebpf: dict[str, str] | UnsetType = UNSET  # feature to "SUPPORT: REASON", if it was considered
    consistency: str  # the option
    interval: str  # as the option says
    effective_interval: str  # as stretched by the CPU budget
    effective_interval_seconds: float
    delayed: str  # why a capture waits
    group: list[str]  # volumes that are captured in one instant with this one, itself among them
    group_note: str
    last: CaptureFigures | None
    cpu_seconds: float  # of all captures since it was mounted


class LastSnapshotView(Struct, frozen=True, kw_only=True):
    """The newest snapshot, in the status."""

    seq: int
    time: str
    age_seconds: float
    consistency: str
    cause: str  # why it is fuzzy
    reason: str
    freeze_ms: float
    capture_ms: float
    group: str


class RecoveryView(Struct, frozen=True, kw_only=True):
    """How the live directory was obtained at the last mount."""

    kind: str  # "live", "new", "replay" or "takeover"
    ms: float
    files: int
    bytes: int
    seq: int | None
    time: str


class ReplayView(Struct, frozen=True, kw_only=True):
    """A replay under way."""

    seq: int
    since: str
    files: int
    files_in_all: int
    bytes: int
    bytes_in_all: int


class VerificationView(Struct, frozen=True, kw_only=True):
    """The last verification of the live directory."""

    ok: bool
    repair: str  # the command that puts back what is damaged; "" where nothing is
    complete: bool
    seq: int
    root: str
    files: int
    bytes: int
    ms: float
    time: str
    faults: tuple[Fault, ...]


class StatusView(Struct, frozen=True, kw_only=True):
    """What `docker volume inspect` shows as Status."""

    id: int
    live: str  # the live directory
    mounts: int
    capture: CaptureView
    snapshots: int
    tags: dict[str, int]  # to seq
    retention: str
    retention_note: str
    damaged_snapshots: list[int]
    last_snapshot: LastSnapshotView | None
    root: str
    files: int
    logical_bytes: int
    stored_bytes: int
    size: int | None  # bytes that the live directory may take
    size_used: int | None
    accounting: VolumeUsage | None
    last_recovery: RecoveryView | None
    replay: ReplayView | None
    last_verification: VerificationView | None
    trouble: list[str]


class VolumeView(Struct, frozen=True):
    """One volume as the VolumeDriver protocol and the admin API show it."""

    name: str
    created_at: str  # RFC 3339 with a zone
    mountpoint: str  # "" while nothing has it mounted
    on_host: str  # the live directory as the host names it; "" where that is not known
    options: dict[str, str] = field(default_factory=dict)
    mounts: int = 0
    status: StatusView | None = None  # None where it was not asked for


class ImportReport(Struct, frozen=True):
    """A volume that was imported."""

    volume: str
    snapshots: int
    objects: int
    head: int | None  # seq of the newest


class SetRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Options by name; null for the default of one."""

    options: Annotated[dict[str, str | None], Meta(min_length=1)]


class RenameRequest(Struct, frozen=True, forbid_unknown_fields=True, rename={"name": "as"}):
    """The new name."""

    name: str


VOLUMES: Final = Endpoint(
    "GET",
    "/v1/volumes",
    NoBody,
    list[VolumeView],
    "All volumes with their status.",
)
INSPECT: Final = Endpoint(
    "GET",
    VOLUME,
    NoBody,
    VolumeView,
    "One volume with its status.",
)
SET: Final = Endpoint(
    "POST",
    f"{VOLUME}/options",
    SetRequest,
    VolumeView,
    "Set options of a volume; answers the volume.",
)
RENAME: Final = Endpoint(
    "POST",
    f"{VOLUME}/rename",
    RenameRequest,
    VolumeView,
    "Give a volume another name; answers the volume.",
)
IMPORT: Final = Endpoint(
    "POST",
    f"{VOLUME}/import",
    Octets,
    ImportReport,
    "A new volume from the archive in the body; answers when it is durable.",
    status=201,
)
