"""One of each message, with its fields to be changed."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct, structs

from diffkeeper.messages import driver, integrity, machine, snapshots, store, trash, volumes
from diffkeeper.messages.endpoint import Endpoint, NoArguments
from diffkeeper.messages.integrity import (
    Fault,
    Kept,
    LostFile,
    RepairedFile,
    RepairReport,
    ScrubProgress,
    ScrubReport,
    ScrubStatus,
    VerifyReport,
)
from diffkeeper.messages.machine import Check, DaemonVersion, ErrorAnswer
from diffkeeper.messages.snapshots import (
    DiffPage,
    Forgotten,
    GroupMember,
    PathDifference,
    PathState,
    Pruning,
    RecordsPage,
    SnapshotView,
    Untagged,
)
from diffkeeper.messages.store import (
    CompactReport,
    MaintenanceReport,
    StoreStatistics,
    StoreUsage,
    UsageFigures,
    VolumeUsage,
)
from diffkeeper.messages.trash import TrashView
from diffkeeper.messages.volumes import (
    CaptureFigures,
    CaptureView,
    ImportReport,
    LastSnapshotView,
    RecoveryView,
    ReplayView,
    StatusView,
    VerificationView,
    VolumeView,
)

TIME: Final = "2026-11-22T10:00:00.000000Z"
ROOT: Final = "0123456789abcdef" * 4
FIGURES: Final = {
    "logical_bytes": 10,
    "history_bytes": 30,
    "snapshots": 3,
    "unique_bytes": 7,
    "shared_bytes": 3,
    "stored_bytes": 5,
    "unique_stored_bytes": 4,
    "ratio": 6.0,
    "growth_bytes_per_day": None,
}
COUNT: Final = {
    "time": TIME,
    "age_seconds": 0.5,
    "seconds": 0.1,
    "sampled_one_in": 1,
    "unreadable_snapshots": 0,
}
PATH: Final = "a/\u00fc/\udcff"  # bytes that are no UTF-8 are lone surrogates

SNAPSHOT: Final = SnapshotView(
    seq=2,
    time=TIME,
    root=ROOT,
    parent=1,
    consistency="crash",
    reason="interval",
    files=3,
    bytes=10,
    new_bytes=4,
    stored_bytes=2,
    freeze_ms=0.0,
    capture_ms=1.5,
    group="g",
    members={"v": 2, "w": 1},
    tags=["kept"],
    damaged=["a\\xff"],
)
FAULT: Final = Fault(PATH, "differs", True)
CAPTURE: Final = CaptureView(
    source="inotify",
    reason="it watches",
    scanned_directories=0,
    ebpf={"programs": "unsupported: none"},
    consistency="crash",
    interval="1s",
    effective_interval="2s",
    effective_interval_seconds=2.0,
    delayed="",
    group=["v", "w"],
    group_note="",
    last=CaptureFigures(0.001, 0.002, 4096, 2),
    cpu_seconds=0.25,
)
USAGE: Final = VolumeUsage(**FIGURES, **COUNT)  # type: ignore[arg-type]  # of several types
SCRUB: Final = ScrubReport(TIME, 1.0, 2, 3, 4, 5, 6, 7, 8, [LostFile("v", 2, PATH)])
STATUS: Final = StatusView(
    id=1,
    live="/live",
    mounts=1,
    capture=CAPTURE,
    snapshots=3,
    tags={"kept": 2},
    retention="all",
    retention_note="",
    damaged_snapshots=[2],
    last_snapshot=LastSnapshotView(
        seq=2,
        time=TIME,
        age_seconds=0.5,
        consistency="fuzzy",
        cause="it was not frozen",
        reason="interval",
        freeze_ms=0.0,
        capture_ms=1.5,
        group="",
    ),
    root=ROOT,
    files=3,
    logical_bytes=10,
    stored_bytes=5,
    size=None,
    size_used=None,
    accounting=USAGE,
    last_recovery=RecoveryView(kind="replay", ms=1.5, files=3, bytes=10, seq=2, time=TIME),
    replay=ReplayView(seq=2, since=TIME, files=1, files_in_all=3, bytes=4, bytes_in_all=10),
    last_verification=VerificationView(
        ok=False,
        repair="diffkeeper repair v",
        complete=True,
        seq=2,
        root=ROOT,
        files=3,
        bytes=10,
        ms=1.5,
        time=TIME,
        faults=(FAULT,),
    ),
    trouble=["it is full"],
)
VOLUME: Final = VolumeView(
    "v", TIME, "/mnt/v", "/live", {"interval": "1s"}, 1, structs.replace(STATUS)
)
STATISTICS: Final = StoreStatistics(
    volumes=2,
    snapshots=3,
    logical_bytes=10,
    unique_bytes=7,
    stored_bytes=5,
    store_used_bytes=4096,
    store_file_bytes=8192,
    store_max_bytes=1 << 40,
    trash_stored_bytes=1,
    trash_max_bytes=1 << 30,
    store_reserve_bytes=1 << 20,
    maintenance_wait_ms_max=0.5,
    scrub=ScrubStatus(ScrubProgress(1, 2, 3), SCRUB),
    accounting=StoreUsage(
        **COUNT,  # type: ignore[arg-type]  # of several types
        total=UsageFigures(**FIGURES),  # type: ignore[arg-type]
        volumes={"v": USAGE},
    ),
)
REPAIRED: Final = RepairedFile(PATH, ["b"], "repaired", 10, 4, [(0, 4096)], 1, "")

FILE: Final = PathState("file", 10, "0644", 0, 1000)
DIRECTORY: Final = PathState("directory", 0, "0755", 0, 1000)

# What each call answers, and what it is asked with if that has fields.
ANSWERS: Final[dict[Endpoint[Any, Any], object]] = {
    machine.VERSION: DaemonVersion("0.1.0", 1, "127.0.0.1:9911", False),
    volumes.VOLUMES: [VOLUME],
    volumes.INSPECT: VOLUME,
    volumes.SET: VOLUME,
    volumes.RENAME: VOLUME,
    snapshots.SNAPSHOTS: [SNAPSHOT],
    snapshots.SNAPSHOT: SNAPSHOT,
    snapshots.RESOLVE: SNAPSHOT,
    snapshots.GROUP: [GroupMember("v", SNAPSHOT)],
    integrity.VERIFY: VerifyReport("v", 2, ROOT, False, True, 3, 10, 1.5, (FAULT,), "repair v"),
    integrity.REPAIR: RepairReport(
        "v", 2, ROOT, False, True, [REPAIRED], ["c"], [FAULT], Kept(3, "found")
    ),
    snapshots.DIFF: DiffPage(
        1,
        2,
        [
            PathDifference("a", "added", [], None, FILE),
            PathDifference(PATH, "changed", ["type", "mode"], FILE, DIRECTORY),
        ],
        PATH,
    ),
    snapshots.RECORDS: RecordsPage(3, "{}", ["{}"], {"kept": 2}),
    volumes.IMPORT: ImportReport("v", 3, 12, 2),
    snapshots.TAG: SNAPSHOT,
    snapshots.UNTAG: Untagged("kept", 2),
    snapshots.FORGET: Forgotten([1, 2]),
    snapshots.PRUNE: [Pruning("v", "all", [1], 2, "")],
    trash.TRASH: [TrashView("v", 1, TIME, TIME, 10, 3, True)],
    trash.EMPTY_TRASH: [TrashView("v", 1, TIME, TIME, 10, 3, True)],
    trash.PURGE: [TrashView("v", 1, TIME, TIME, 10, 3, True)],
    trash.UNDELETE: VOLUME,
    store.STATISTICS: STATISTICS,
    store.COUNT: STATISTICS,
    store.MAINTAIN: MaintenanceReport(1, 2, 3, 4, 5, 6, 7, 0.5, 1.5, ["a pack is damaged"]),
    store.COMPACT: CompactReport(8192, 4096),
    integrity.SCRUB: SCRUB,
    machine.DOCTOR: [Check("engine", "warn", "none", "a cost", "a mend")],
}
REQUESTS: Final[list[Struct]] = [
    NoArguments(),
    volumes.SetRequest({"interval": "1s", "size": None}),
    volumes.RenameRequest("w"),
    integrity.VerifyRequest("2"),
    integrity.RepairRequest([PATH], True),
    snapshots.DiffRequest("1", "latest", "w", PATH),
    snapshots.TagRequest("kept", None),
    snapshots.ForgetRequest(["1"]),
    snapshots.PruneRequest("v", True),
    trash.UndeleteRequest("w"),
    store.ObjectsRequest([("chunk", ROOT), ("node", ROOT)]),
]
OF_DOCKERD: Final[list[Struct]] = [
    driver.CreateRequest("v", {"interval": "1s"}),
    driver.RemoveRequest("v"),
    driver.MountRequest("v", "1f"),
    driver.UnmountRequest("v", "1f"),
    driver.PathRequest("v"),
    driver.GetRequest("v"),
]
FOR_DOCKERD: Final[list[Struct]] = [
    driver.DoneAnswer(),
    driver.MountpointAnswer("/mnt/v"),
    driver.VolumeAnswer(driver.VolumeMessage("v", "/live", TIME, STATUS)),
    driver.VolumesAnswer([driver.VolumeMessage("v", "/live", TIME)]),
    driver.CapabilitiesAnswer(),
    driver.ActivateAnswer(),
    ErrorAnswer("no volume", 3, "NotFoundError"),
]


def status(**changes: object) -> StatusView:
    """A status with other values."""
    return structs.replace(STATUS, **changes)


def capture(**changes: object) -> CaptureView:
    """A part of it with other values."""
    return structs.replace(CAPTURE, **changes)
