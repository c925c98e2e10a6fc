"""Views of a volume for `docker volume inspect` and the admin API. Reads memory only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType, structs

from diffkeeper import clock
from diffkeeper.messages.integrity import Fault, VerifyReport
from diffkeeper.messages.snapshots import SnapshotView
from diffkeeper.messages.store import VolumeUsage
from diffkeeper.messages.volumes import (
    CaptureFigures,
    CaptureView,
    LastSnapshotView,
    RecoveryView,
    ReplayView,
    StatusView,
    VerificationView,
    VolumeView,
)
from diffkeeper.volumes.units import format_duration
from diffkeeper.volumes.wording import repair_command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from diffkeeper.format.ids import Root, SnapshotId
    from diffkeeper.format.records import SnapshotRecord
    from diffkeeper.integrity.verify import Result
    from diffkeeper.snapshot.capture_state import Figures
    from diffkeeper.snapshot.watched_volume import WatchedVolume
    from diffkeeper.volumes.volume import Volume
    from diffkeeper.volumes.volume_status import Verification

DAMAGED_PATHS_SHOWN_MAX = 10


@dataclass(frozen=True, slots=True)
class ShownHistory:
    """The part of a volume's status about its history."""

    retention: str
    note: str


def snapshot_view(
    record: SnapshotRecord,
    names: Mapping[int, str],
    tags: Mapping[str, int],
    damaged: Mapping[SnapshotId, Sequence[bytes]],
) -> SnapshotView:
    """A stored snapshot as shown; `names`: all volume names by id; `tags`: of its volume;
    `damaged`: see `Store.damaged`.
    """
    return SnapshotView(
        seq=record.seq,
        time=clock.rfc3339(record.time_ns),
        root=record.root.hex(),
        parent=record.parent,
        consistency=record.consistency,
        reason=record.reason,
        files=record.files,
        bytes=record.bytes,
        new_bytes=record.new_bytes,
        stored_bytes=record.stored_bytes,
        freeze_ms=record.freeze_ms,
        capture_ms=record.capture_ms,
        group=record.group_id,
        members={names.get(int(n), f"#{n}"): seq for n, seq in record.group.items()},
        tags=sorted(tag for tag, seq in tags.items() if seq == record.seq),
        damaged=shown_paths(damaged.get(record.id, ())),
    )


def shown_paths(paths: Sequence[bytes]) -> list[str]:
    """The first of the paths; bytes that are no UTF-8 are escaped."""
    return [p.decode("utf-8", "backslashreplace") for p in paths[:DAMAGED_PATHS_SHOWN_MAX]]


def faults(result: Result) -> tuple[Fault, ...]:
    """The paths that did not match; bytes that are no UTF-8 are escaped."""
    return tuple(
        Fault(m.path.decode("utf-8", "backslashreplace"), m.problem, m.damaged)
        for m in result.mismatches
    )


def verify_report(volume: str, seq: int | None, root: Root, result: Result) -> VerifyReport:
    """The answer to a verification."""
    return VerifyReport(
        volume=volume,
        seq=seq,
        root=root.hex(),
        ok=not result.mismatches,
        complete=result.complete,
        files=result.files,
        bytes=result.bytes,
        milliseconds=round(result.seconds * 1000, 3),
        faults=faults(result),
        repair=repair_command(volume, result),
    )


def volume_view(volume: Volume, history: ShownHistory | None = None) -> VolumeView:
    """One volume; `history` adds the details of `inspect`."""
    record = volume.state.record
    return VolumeView(
        name=record.name,
        created_at=clock.rfc3339(record.created_ns),
        mountpoint=volume.mountpoint if record.mounts else "",
        on_host=volume.paths.on_host,
        options=dict(record.options),
        mounts=sum(record.mounts.values()),
        status=_status(volume, history) if history is not None else None,
    )


def _status(volume: Volume, history: ShownHistory) -> StatusView:
    head, record = volume.state.head, volume.state.record
    return StatusView(
        id=record.id,
        live=volume.live,
        mounts=sum(record.mounts.values()),
        capture=_capture(volume),
        snapshots=volume.stored_snapshots,
        tags=dict(volume.status.tags),
        retention=history.retention,
        retention_note=history.note,
        damaged_snapshots=volume.damaged_snapshots,
        last_snapshot=_last(head) if head is not None else None,
        root=head.root.hex() if head is not None else "",
        files=head.files if head is not None else 0,
        logical_bytes=head.bytes if head is not None else 0,
        stored_bytes=volume.stored_bytes,
        size=volume.options.size_bytes,
        size_used=volume.directory.limit.used,
        accounting=account_view(volume),
        last_recovery=_recovery(volume),
        replay=_replay(volume),
        last_verification=_verification(record.name, volume.status.verification),
        trouble=volume.status.troubles.texts(),
    )


def account_view(volume: Volume) -> VolumeUsage | None:
    """What the volume took at the last count; None before the first."""
    counted = volume.status.account
    if counted is None:
        return None
    account, accounts = counted
    return VolumeUsage(**structs.asdict(account.figures()), **structs.asdict(accounts.count()))


def _capture(volume: Volume) -> CaptureView:
    watched = volume.watched
    throttle, group = volume.throttle, volume.status.group
    return CaptureView(
        source=watched.watcher.source.name if watched is not None else "none",
        reason=watched.watcher.reason if watched is not None else "not mounted",
        scanned_directories=watched.watcher.source.unwatched if watched else 0,
        ebpf=_ebpf(watched),
        consistency="crash" if volume.options.policy.freeze else "fuzzy",
        interval=format_duration(throttle.interval),
        effective_interval=format_duration(round(throttle.effective, 3)),
        effective_interval_seconds=round(throttle.effective, 3),
        delayed=throttle.delayed,
        group=list(group.names),
        group_note=group.note,
        last=_figures(watched.figures) if watched is not None else None,
        cpu_seconds=round(watched.cpu_seconds, 3) if watched is not None else 0.0,
    )


def _ebpf(watched: WatchedVolume | None) -> dict[str, str] | UnsetType:
    """Features of eBPF that matter to the volume; unset where eBPF was not considered."""
    found = watched.watcher.features if watched is not None else ()
    return {each.name: f"{each.support}: {each.reason}" for each in found} or UNSET


def _figures(figures: Figures) -> CaptureFigures:
    return CaptureFigures(
        freeze_seconds=round(figures.freeze_seconds, 6),
        capture_seconds=round(figures.capture_seconds, 6),
        dirty_bytes=figures.dirty_bytes,
        rounds=figures.rounds,
    )


def _last(head: SnapshotRecord) -> LastSnapshotView:
    return LastSnapshotView(
        seq=head.seq,
        time=clock.rfc3339(head.time_ns),
        age_seconds=round(max(0, clock.now_ns() - head.time_ns) / 1e9, 3),
        consistency=head.consistency,
        cause=head.cause,
        reason=head.reason,
        freeze_ms=head.freeze_ms,
        capture_ms=head.capture_ms,
        group=head.group_id,
    )


def _recovery(volume: Volume) -> RecoveryView | None:
    recovery = volume.status.recovery
    if recovery is None:
        return None
    return RecoveryView(
        kind=recovery.kind,
        ms=recovery.milliseconds,
        files=recovery.files,
        bytes=recovery.bytes,
        seq=recovery.seq,
        time=clock.rfc3339(recovery.time_ns),
    )


def _replay(volume: Volume) -> ReplayView | None:
    now = volume.directory.replaying
    if now is None:
        return None
    return ReplayView(
        seq=now.snapshot.seq,
        since=clock.rfc3339(now.since_ns),
        files=now.files,
        files_in_all=now.snapshot.files,
        bytes=now.bytes,
        bytes_in_all=now.snapshot.bytes,
    )


def _verification(name: str, found: Verification | None) -> VerificationView | None:
    if found is None:
        return None
    return VerificationView(
        ok=found.ok,
        repair=repair_command(name, found.result),
        complete=found.result.complete,
        seq=found.seq,
        root=found.root.hex(),
        files=found.result.files,
        bytes=found.result.bytes,
        ms=round(found.result.seconds * 1000, 3),
        time=clock.rfc3339(found.time_ns),
        faults=faults(found.result),
    )
