"""Repairs of live directories by command: what is damaged, what is refused, what was done.

Only for a volume that is not mounted: a program may have the damage in its memory and write it
again, and its writes may collide with the repair. The step's lock is held, so that a container's
start waits.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING

from diffkeeper.errors import ConflictError, CorruptionError, NotFoundError
from diffkeeper.integrity import bit_rot as damages
from diffkeeper.integrity.repair import Repair, tag_of
from diffkeeper.messages.integrity import Fault, Kept, RepairedFile, RepairReport
from diffkeeper.volumes.lifecycle import Event, State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from diffkeeper.format.records import SnapshotRecord
    from diffkeeper.history.retention import Retention
    from diffkeeper.integrity.bit_rot import Damage, UnusedDirectory
    from diffkeeper.store.store import Store
    from diffkeeper.volumes.volume import Volume

log = logging.getLogger(__name__)
USERS_SHOWN_MAX = 10


class Repairs:
    """Repairs of the volumes of one store. `capture` takes a snapshot of a volume, its newest."""

    def __init__(
        self, store: Store, retention: Retention, capture: Callable[[Volume], SnapshotRecord]
    ) -> None:
        self._store = store
        self._retention = retention
        self._capture = capture

    def run(self, volume: Volume, paths: Sequence[bytes] | None, *, dry_run: bool) -> RepairReport:
        """Repair these files, or all that a verification finds damaged; `dry_run` only lists them.

        Of named files all or none: ConflictError, NotFoundError or CorruptionError for one that
        cannot be repaired, and nothing was changed. Call `refuse_mounted` before.
        """
        volume.close()
        if volume.state.record.mounts:
            volume.released()
        head = self._capture(volume)  # what was written is no damage
        live = damages.UnusedDirectory(self._store, volume.state.record.id, volume.live, head.root)
        with contextlib.closing(live):
            if paths is None:
                found, whole, refused, complete = self._verified(volume, live, head)
            else:
                found, whole = _named(live, paths)
                refused, complete = [], True
            kept, files = None, [_file(each, "damaged") for each in found]
            if found and not dry_run:
                kept, files = self._repair(volume, live, head, found)
        return RepairReport(
            volume=volume.name,
            seq=head.seq,
            root=head.root.hex(),
            dry_run=dry_run,
            complete=complete,
            files=files,
            whole=[os.fsdecode(path) for path in whole],
            refused=refused,
            kept=kept,
        )

    def _verified(
        self, volume: Volume, live: UnusedDirectory, head: SnapshotRecord
    ) -> tuple[list[Damage], list[bytes], list[Fault], bool]:
        """What a verification of all files finds: damaged files, files found whole on a second
        look, files that cannot be repaired; and whether it completed.
        """
        result = volume.verify_unused(head)
        found: list[Damage] = []
        whole: list[bytes] = []
        refused: list[Fault] = []
        for each in result.mismatches:
            path, problem = each.path, each.problem
            if each.damaged:
                try:
                    if not _add(found, live.examine(path)):
                        whole.append(path)
                    continue
                except (ConflictError, CorruptionError, NotFoundError) as error:
                    problem = str(error)
            refused.append(Fault(os.fsdecode(path), problem))
        return found, whole, refused, result.complete

    def _repair(
        self, volume: Volume, live: UnusedDirectory, head: SnapshotRecord, found: list[Damage]
    ) -> tuple[Kept, list[RepairedFile]]:
        work = Repair(self._store, volume.state, live, volume.paths.repair)
        level = volume.options.policy.level
        kept = work.keep_found_state(head, found, level, lambda: self._retention.tagging(volume))
        failed = work.write(found)
        volume.life.follow(State.REPAIRING, Event.SETTLED)
        done = [each for each in found if each.names[0] not in failed]
        volume.status.troubles.end("repair")
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
    """ConflictError while the volume is mounted, or where it has no live directory.

    Counts alone do not refuse: a killed dockerd leaves those of containers that are gone.
    """
    if not volume.present:
        absent = f"{volume.name} has no live directory to repair; its next mount replays it"
        volume.life.require(Event.REPAIR, absent, mounted=False)
    users = sorted(volume.users())
    by = f" by the processes {', '.join(map(str, users[:USERS_SHOWN_MAX]))}" if users else ""
    refusal = (
        f"volume {volume.name} is mounted{by}; stop its containers first: what they hold in"
        " memory could be written over the repair. Nothing was repaired"
    )
    volume.life.require(Event.REPAIR, refusal, mounted=bool(users) or volume.life.in_use())


def _named(live: UnusedDirectory, paths: Sequence[bytes]) -> tuple[list[Damage], list[bytes]]:
    found: list[Damage] = []
    whole: list[bytes] = []
    for path in dict.fromkeys(paths):
        if not _add(found, live.examine(path)):
            whole.append(path)
    return found, whole


def _add(found: list[Damage], one: Damage | None) -> bool:
    """Add a damaged file to those that are known, maybe by another name; false for None."""
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
