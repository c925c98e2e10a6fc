"""What `docker volume inspect` and the admin API say of a volume. Reads memory only."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from diffkeeper import clock, limits
from diffkeeper.volumes.model import Fault, Json, SnapshotView, VerifyReport, VolumeView
from diffkeeper.volumes.options import format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from diffkeeper.engine.snapshotter import Snapshotter
    from diffkeeper.engine.verify import Result
    from diffkeeper.engine.work import Figures
    from diffkeeper.format.records import SnapshotRecord
    from diffkeeper.volumes.volume import Verification, Volume


def snapshot_view(
    record: SnapshotRecord,
    names: Mapping[int, str],
    tags: Mapping[str, int],
    damaged: Mapping[tuple[int, int], Sequence[bytes]],
) -> SnapshotView:
    """A stored snapshot as it is shown; `names`: of all volumes by id; `tags`: of its volume;
    `damaged`: see `Store.damaged`.
    """
    return SnapshotView(
        seq=record.seq,
        time=clock.rfc3339(record.time_ns),
        root=record.root,
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
        damaged=shown_paths(damaged.get((record.volume_id, record.seq), ())),
    )


def shown_paths(paths: Sequence[bytes]) -> list[str]:
    """Some of the paths; bytes that are no text are escaped."""
    return [p.decode("utf-8", "backslashreplace") for p in paths[: limits.DAMAGED_PATHS_SHOWN_MAX]]


def faults(result: Result) -> tuple[Fault, ...]:
    """The paths that did not match; bytes that are no text are escaped."""
    return tuple(
        Fault(m.path.decode("utf-8", "backslashreplace"), m.problem, m.damaged)
        for m in result.mismatches
    )


def repair_command(volume: str, result: Result) -> str:
    """The command that repairs what the verification found; "" where that is nothing."""
    return f"diffkeeper repair {volume}" if any(m.damaged for m in result.mismatches) else ""


def verify_report(volume: str, seq: int | None, root: str, result: Result) -> VerifyReport:
    """A verification as it is answered."""
    return VerifyReport(
        volume=volume,
        seq=seq,
        root=root,
        ok=not result.mismatches,
        complete=result.complete,
        files=result.files,
        bytes=result.bytes,
        milliseconds=round(result.seconds * 1000, 3),
        faults=faults(result),
        repair=repair_command(volume, result),
    )


def volume_view(volume: Volume, past: Json | None = None) -> VolumeView:
    """One volume; `past`, what is told of its history, adds all a person may want to know of it."""
    record = volume.state.record
    return VolumeView(
        name=record.name,
        created_at=clock.rfc3339(record.created_ns),
        mountpoint=volume.mountpoint if record.mounts else "",
        options=dict(record.options),
        mounts=sum(record.mounts.values()),
        status=_status(volume, past) if past is not None else {},
    )


def _status(volume: Volume, past: Json) -> Json:
    head, record = volume.state.head, volume.state.record
    status: Json = {
        "id": record.id,
        "live": volume.live,
        "mounts": sum(record.mounts.values()),
        "capture": _capture(volume),
        "snapshots": volume.stored_snapshots,
        "tags": dict(volume.tags),
        **past,
        "damaged_snapshots": volume.damaged_snapshots,
        "last_snapshot": _last(head) if head is not None else None,
        "root": head.root if head is not None else "",
        "files": head.files if head is not None else 0,
        "logical_bytes": head.bytes if head is not None else 0,
        "stored_bytes": volume.stored_bytes,
        "accounting": account_view(volume),
        "last_recovery": _recovery(volume),
        "last_verification": _verification(record.name, volume.verification),
        "trouble": list(volume.troubles.values()),
    }
    return status


def account_view(volume: Volume) -> Json | None:
    """What the volume took when it was last counted; None before."""
    if volume.account is None:
        return None
    account, accounts = volume.account
    return {**account.shown(), **accounts.about()}


def _capture(volume: Volume) -> Json:
    snapshotter = volume.snapshotter
    pace = volume.pace
    return {
        "source": snapshotter.watched.source.name if snapshotter is not None else "none",
        "reason": snapshotter.watched.reason if snapshotter is not None else "not mounted",
        **_ebpf(snapshotter),
        "consistency": volume.options.consistency,
        "interval": format_duration(pace.interval),
        "effective_interval": format_duration(round(pace.effective, 3)),
        "effective_interval_seconds": round(pace.effective, 3),
        "delayed": pace.delayed,
        "group": list(volume.group),
        "group_note": volume.group_note,
        "last": _figures(snapshotter.figures) if snapshotter is not None else None,
        "cpu_seconds": round(snapshotter.cpu_seconds, 3) if snapshotter is not None else 0.0,
    }


def _ebpf(snapshotter: Snapshotter | None) -> Json:
    """What of eBPF matters to the volume, where that was considered."""
    found = snapshotter.watched.features if snapshotter is not None else ()
    if not found:
        return {}
    return {"ebpf": {each.name: f"{each.support}: {each.reason}" for each in found}}


def _figures(figures: Figures) -> Json:
    return {
        "freeze_seconds": round(figures.freeze_seconds, 6),
        "capture_seconds": round(figures.capture_seconds, 6),
        "dirty_bytes": figures.dirty_bytes,
        "rounds": figures.rounds,
    }


def _last(head: SnapshotRecord) -> Json:
    return {
        "seq": head.seq,
        "time": clock.rfc3339(head.time_ns),
        "age_seconds": round(max(0, clock.now_ns() - head.time_ns) / 1e9, 3),
        "consistency": head.consistency,
        "cause": head.cause,
        "reason": head.reason,
        "freeze_ms": head.freeze_ms,
        "capture_ms": head.capture_ms,
        "group": head.group_id,
    }


def _recovery(volume: Volume) -> Json | None:
    recovery = volume.recovery
    if recovery is None:
        return None
    return {
        "kind": recovery.kind,
        "ms": recovery.milliseconds,
        "files": recovery.files,
        "bytes": recovery.bytes,
        "seq": recovery.seq,
        "time": clock.rfc3339(recovery.time_ns),
    }


def _verification(name: str, found: Verification | None) -> Json | None:
    if found is None:
        return None
    return {
        "ok": found.ok,
        "repair": repair_command(name, found.result),
        "complete": found.result.complete,
        "seq": found.seq,
        "root": found.root,
        "files": found.result.files,
        "bytes": found.result.bytes,
        "ms": round(found.result.seconds * 1000, 3),
        "time": clock.rfc3339(found.time_ns),
        "faults": [asdict(fault) for fault in faults(found.result)],
    }
