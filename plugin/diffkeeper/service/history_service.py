"""The admin API's calls about stored histories and removed volumes; on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, ParamSpec

from diffkeeper import clock
from diffkeeper.errors import DiffKeeperError, NotFoundError
from diffkeeper.format.ids import ObjectId, ObjectKind
from diffkeeper.history import differences
from diffkeeper.history.snapshots import History
from diffkeeper.messages.snapshots import Pruning
from diffkeeper.service.pressure import Pressure
from diffkeeper.service.threads import within
from diffkeeper.volumes.status import ShownHistory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from diffkeeper.history.references import Reference
    from diffkeeper.history.retention import Retention
    from diffkeeper.history.retention_clock import RetentionClock
    from diffkeeper.history.trash import Trash
    from diffkeeper.messages.snapshots import DiffPage, GroupMember, RecordsPage, SnapshotView
    from diffkeeper.messages.store import KindName
    from diffkeeper.messages.trash import TrashView
    from diffkeeper.service.workers import Workers
    from diffkeeper.store.store import Store
    from diffkeeper.volumes.registry import Registry
    from diffkeeper.volumes.volume import Volume

log = logging.getLogger(__name__)
P = ParamSpec("P")
Named = tuple[str, "Reference | None"]  # a volume, and which of its snapshots
Found = tuple["Volume", "Reference | None"]

RETENTION_TURN_SECONDS = 5.0  # between two checks of what is due
TRASH_TURN_SECONDS = 60.0


class HistoryService:
    """Snapshots, tags, retention and trash."""

    def __init__(
        self,
        store: Store,
        retention: Retention,
        trash: Trash,
        age: RetentionClock,
        pools: Workers,
        registry: Registry,
    ) -> None:
        self._store = store
        self._history = History(store)
        self.retention = retention
        self.trash = trash
        self._age = age
        self._pools, self._pool = pools, pools.queries
        self._find, self._volumes = registry.find, registry.volumes
        self._failed: dict[str, str] = {}  # last error by task
        self.pressure = Pressure(store, retention, trash, registry.volumes)

    async def snapshots(self, name: str) -> list[SnapshotView]:
        """All snapshots of a volume, oldest first."""
        return await within(self._pool, self._history.views, self._find(name).state.record)

    async def records(self, name: str, after: int) -> RecordsPage:
        """Stored records: the volume's, and a page of its snapshots' after `after`."""
        return await within(self._pool, self._history.records, self._find(name).state.record, after)

    async def resolve(self, name: str, reference: Reference | None) -> SnapshotView:
        """The snapshot that a reference names, see `History.resolve`."""
        return await within(self._pool, self._resolve, self._find(name), reference)

    def _resolve(self, volume: Volume, reference: Reference | None) -> SnapshotView:
        return self._history.view(self._history.resolve(volume.state.record, reference))

    async def group(self, name: str, reference: Reference | None) -> list[GroupMember]:
        """All volumes' snapshots of one instant, see `History.group`."""
        return await within(
            self._pool, self._history.group, self._find(name).state.record, reference
        )

    async def diff(self, old: Named, new: Named, after: bytes | None) -> DiffPage:
        """Where two snapshots differ, past a path if one is given, see `differences.page`."""
        first, second = self._find(old[0]), self._find(new[0])
        return await within(self._pools.long, self._diff, (first, old[1]), (second, new[1]), after)

    def _diff(self, old: Found, new: Found, after: bytes | None) -> DiffPage:
        before, now = (self._history.resolve(each.state.record, name) for each, name in (old, new))
        return differences.page(self._store, before, now, after)

    async def objects(self, wanted: list[tuple[KindName, bytes]]) -> list[bytes]:
        """Objects, by kind and digest, in an encoding of their own, in order; checked here and by
        the receiver.
        """
        return await within(self._pool, self._objects, wanted)

    def _objects(self, wanted: list[tuple[KindName, bytes]]) -> list[bytes]:
        return [self._store.stored(ObjectId(ObjectKind(kind), digest)) for kind, digest in wanted]

    async def tag(self, name: str, reference: Reference | None, tag: str) -> SnapshotView:
        """Tag the snapshot that a reference names, see `Retention.tag`."""
        volume = self._find(name)
        return await within(self._pool, self._tag, volume, reference, tag)

    def _tag(self, volume: Volume, reference: Reference | None, tag: str) -> SnapshotView:
        snapshot = self._history.resolve(volume.state.record, reference)
        self.retention.tag(volume, snapshot, tag)
        return self._history.view(snapshot)

    async def untag(self, name: str, tag: str) -> int:
        """Remove a tag; returns the number of its snapshot. NotFoundError."""
        return await within(self._pool, self.retention.untag, self._find(name), tag)

    async def forget(self, name: str, references: Sequence[Reference]) -> list[int]:
        """Forget the snapshots that the references name, all or none; returns their numbers."""
        return await within(self._pool, self._forget, self._find(name), references)

    def _forget(self, volume: Volume, references: Sequence[Reference]) -> list[int]:
        record = volume.state.record
        seqs = sorted({self._history.resolve(record, each).seq for each in references})
        self.retention.forget(volume, seqs)
        return seqs

    def uncounted_time(self) -> str:
        """Which time does not count for retention and trash yet, and why; empty if all counts."""
        return self._age.uncounted()

    def short(self) -> str:
        """That histories are thinned early for want of space, and why; empty if there is enough."""
        return self.pressure.note

    def status(self, volume: Volume) -> ShownHistory:
        """The part of `Status` about a volume's retention."""
        note = "; ".join(filter(None, (self.pressure.note, self.uncounted_time())))
        return ShownHistory(self.retention.shown(volume), note)

    def figures(self) -> dict[str, float]:
        """Figures of trash and clock by the names of their metrics; reads memory only."""
        return {**self.trash.figures(), "clock_unseen_seconds": self._age.unseen_seconds}

    async def prune(self, name: str | None, *, dry_run: bool) -> list[Pruning]:
        """Forget what retention does not keep, by the wall clock, in one volume or all; `dry_run`
        only lists it.
        """
        volumes = self._volumes() if name is None else [self._find(name)]
        return [await within(self._pool, self._prune, each, dry_run) for each in volumes]

    def _prune(self, volume: Volume, dry_run: bool) -> Pruning:
        note = self.uncounted_time()
        forgotten, left = self.retention.prune(volume, dry_run=dry_run)
        return Pruning(volume.name, self.retention.shown(volume), forgotten, left, note)

    async def thin(self) -> None:
        """Forget everything that is due, in all volumes, now."""
        for volume in self._volumes():
            await within(self._pool, self._thin, volume)

    def _thin(self, volume: Volume) -> None:
        self.retention.prune(volume, now_ns=self._age.now_ns())

    async def removed(self) -> list[TrashView]:
        """The volumes in the trash, first removed first."""
        return await within(self._pool, self.trash.views)

    async def empty(self, reference: str | None) -> list[TrashView]:
        """Purge one removed volume, or all; returns what they were."""
        return await within(self._pools.long, self._empty, reference)

    def _empty(self, reference: str | None) -> list[TrashView]:
        chosen = self.trash.records() if reference is None else [self.trash.find(reference)]
        numbers = {record.id for record in chosen}
        views = [view for view in self.trash.views() if view.id in numbers]
        for record in chosen:
            # retention, or another request, may have purged it at the same moment
            with contextlib.suppress(NotFoundError):
                self.trash.purge(record)
        self.retention.purged()
        return views

    async def run_forever(self) -> None:
        """Apply retention and purge the trash as it falls due; never returns."""
        purge_at = 0.0
        while True:
            await self._attempt(self.pressure.relieve)
            await self._attempt(self.retention.sweep, self._volumes())
            if clock.monotonic() >= purge_at:
                purge_at = clock.monotonic() + TRASH_TURN_SECONDS
                await self._attempt(self._purge_due)
            # last, since the steps before may have made the space for it
            await self._attempt(self._age.save)
            await asyncio.sleep(RETENTION_TURN_SECONDS)

    async def _attempt(
        self, function: Callable[P, object], *arguments: P.args, **named: P.kwargs
    ) -> None:
        """Run it; an error is recorded, does not stop the other work, and it is tried again."""
        work = function.__name__
        try:
            await within(self._pools.history, function, *arguments, **named)
        except (DiffKeeperError, OSError) as error:
            self._failed[work] = f"history is not kept as it should be: {error}"
            log.error("history_failed", extra={"error": str(error)})
        except Exception as error:
            # A defect must not end it either.
            self._failed[work] = f"history is not kept as it should be: {error!r}"
            log.exception("history_failed", extra={"error": str(error)})
        else:
            self._failed.pop(work, None)

    def troubles(self) -> list[str]:
        """The last errors of the background work."""
        return [*self._failed.values(), *self.trash.troubles()]

    def _purge_due(self) -> None:
        if self.trash.purge_due():
            self.retention.purged()
        self.trash.measure()
