"""Repairs of live directories by command: what is damaged, what is refused, what was done.

Only of a volume that nothing has mounted: a program may hold what is wrong in its memory and write
it again, and a write may meet the repair. Its lock is held, so that a container's start waits.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING

from diffkeeper.engine import damage as damages
from diffkeeper.engine.repair import Repair, pending, tag_of
from diffkeeper.errors import ConflictError, CorruptionError, DiffKeeperError, NotFoundError
from diffkeeper.fsio import durable
from diffkeeper.volumes.model import Fault, Kept, RepairedFile, RepairReport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from diffkeeper.engine.damage import Damage, Live
    from diffkeeper.format.records import SnapshotRecord
    from diffkeeper.store.store import Store
    from diffkeeper.volumes.retention import Retention
    from diffkeeper.volumes.volume import Volume

log = logging.getLogger(__name__)
USERS_SHOWN_MAX = 10
_PATHS_SHOWN_MAX = 10


def settle_interrupted(volume: Volume, store: Store) -> None:
    """End what a killed repair left, before any capture takes its traces for writes.

    What cannot be settled is captured as if it was written, and is a trouble of the volume.
    """
    settled: list[bytes] = []
    failed: dict[bytes, str] = {}
    try:
        journal = pending(volume.repairing)
        if journal is None:
            return
        live = damages.Live(store, volume.state.record.id, volume.live, bytes.fromhex(journal.root))
        with contextlib.closing(live):
            mender = Repair(store, volume.state, live, volume.repairing)
            settled, failed = mender.settle(journal)
    except (DiffKeeperError, OSError, ValueError) as error:
        # It must not keep containers out, nor be tried again once they have written.
        _unsettled(volume, str(error))
        durable.remove_file(volume.repairing)
        return
    if failed:
        _unsettled(volume, "; ".join(f"{damages.shown(path)}: {failed[path]}" for path in failed))
    named = ", ".join(map(damages.shown, settled[:_PATHS_SHOWN_MAX]))
    log.warning("repair_interrupted", extra={"volume": volume.name, "files": named})


def _unsettled(volume: Volume, why: str) -> None:
    volume.troubles["repair"] = (
        f"a repair was interrupted, and what it changed is captured as written: {why}"
    )
    log.error("repair_failed", extra={"volume": volume.name, "error": why})


class Repairs:
    """Repairs of the volumes of one store. `capture` takes a snapshot of a volume: its newest."""

    def __init__(
        self, store: Store, retention: Retention, capture: Callable[[Volume], SnapshotRecord]
    ) -> None:
        self._store = store
        self._retention = retention
        self._capture = capture

    def run(self, volume: Volume, paths: Sequence[bytes] | None, *, dry_run: bool) -> RepairReport:
        """Repair these files, or all that a verification finds damaged; `dry_run` only tells.

        Of named files all or none: ConflictError, NotFoundError or CorruptionError for one that
        cannot be repaired, and nothing was changed. See `refuse_mounted`, which comes before.
        """
        volume.close()
        if volume.state.record.mounts:
            volume.released()
        head = self._capture(volume)  # what was written is no damage
        live = damages.Live(
            self._store, volume.state.record.id, volume.live, bytes.fromhex(head.root)
        )
        with contextlib.closing(live):
            if paths is None:
                found, whole, refused, complete = self._verified(volume, live)
            else:
                found, whole = _named(live, paths)
                refused, complete = [], True
            kept, files = None, [_file(each, "damaged") for each in found]
            if found and not dry_run:
                kept, files = self._repair(volume, live, found)
        return RepairReport(
            volume=volume.name,
            seq=head.seq,
            root=head.root,
            dry_run=dry_run,
            complete=complete,
            files=files,
            whole=[os.fsdecode(path) for path in whole],
            refused=refused,
            kept=kept,
        )

    def _verified(
        self, volume: Volume, live: Live
    ) -> tuple[list[Damage], list[bytes], list[Fault], bool]:
        """What a verification of all files finds damaged, finds whole at a second look, and what
        cannot be repaired; whether it came to its end.
        """
        verification = volume.verify_live(None, lambda: None, since_verified=False)
        assert verification is not None  # noqa: S101  # there is a snapshot
        found: list[Damage] = []
        whole: list[bytes] = []
        refused: list[Fault] = []
        for each in verification.result.mismatches:
            path, problem = each.path, each.problem
            if each.damaged:
                try:
                    if not _add(found, live.examine(path)):
                        whole.append(path)
                    continue
                except (ConflictError, CorruptionError, NotFoundError) as error:
                    problem = str(error)
            refused.append(Fault(os.fsdecode(path), problem))
        return found, whole, refused, verification.result.complete

    def _repair(
        self, volume: Volume, live: Live, found: list[Damage]
    ) -> tuple[Kept, list[RepairedFile]]:
        work = Repair(self._store, volume.state, live, volume.repairing)
        level = volume.options.compression_level
        kept = work.keep(found, level, lambda: self._retention.tagging(volume))
        failed = work.write(found)
        done = [each for each in found if each.names[0] not in failed]
        volume.troubles.pop("repair", None)
        volume.repaired([name for each in done for name in each.names])
        fields = {"volume": volume.name, "kept": kept.seq, "files": len(done)}
        log.info("repaired", extra={**fields, "bytes": sum(each.bytes for each in done)})
        if failed:
            named = "; ".join(f"{damages.shown(path)}: {why}" for path, why in failed.items())
            log.error("repair_failed", extra={"volume": volume.name, "error": named})
        files = [
            _file(each, "failed", failed[each.names[0]])
            if each.names[0] in failed
            else _file(each, "repaired")
            for each in found
        ]
        return Kept(kept.seq, tag_of(kept)), files


def refuse_mounted(volume: Volume) -> None:
    """ConflictError while something has the volume mounted, or where it has no live directory.

    Counts alone do not refuse: a killed dockerd leaves those of containers that are gone.
    """
    if not volume.present:
        raise ConflictError(
            f"{volume.name} has no live directory to repair; its next mount replays it"
        )
    users = sorted(volume.users())
    if not volume.mounted:
        volume.close()
    if users or (volume.mounted and not volume.abandoned()):
        by = f" by the processes {', '.join(map(str, users[:USERS_SHOWN_MAX]))}" if users else ""
        raise ConflictError(
            f"volume {volume.name} is mounted{by}; stop its containers first: what they hold in"
            " memory could be written over the repair. Nothing was repaired"
        )


def _named(live: Live, paths: Sequence[bytes]) -> tuple[list[Damage], list[bytes]]:
    found: list[Damage] = []
    whole: list[bytes] = []
    for path in dict.fromkeys(paths):
        if not _add(found, live.examine(path)):
            whole.append(path)
    return found, whole


def _add(found: list[Damage], one: Damage | None) -> bool:
    """Take a damaged file to those that are known, by another name perhaps; false for none."""
    if one is None:
        return False
    for each in found:
        if each.inode == one.inode:
            each.names += one.names
            return True
    found.append(one)
    return True


def _file(each: Damage, outcome: str, problem: str = "") -> RepairedFile:
    return RepairedFile(
        path=os.fsdecode(each.names[0]),
        other_names=[os.fsdecode(name) for name in each.names[1:]],
        outcome=outcome,
        bytes=each.bytes,
        unreadable_bytes=each.unreadable_bytes,
        ranges=each.ranges,
        ranges_left_out=each.ranges_left_out,
        problem=problem,
    )
