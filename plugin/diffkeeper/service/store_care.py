"""Scrubs, maintenance, compaction and statistics of the store, on request and in the background."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.integrity.salvage import SalvageSource
from diffkeeper.integrity.scrub import Scrubber
from diffkeeper.messages.store import CompactReport, StoreStatistics
from diffkeeper.service.idle_share import IdleShare
from diffkeeper.service.maintenance_thread import MaintenanceThread
from diffkeeper.service.threads import within
from diffkeeper.service.usage_schedule import UsageSchedule
from diffkeeper.space.maintenance import Maintenance

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from diffkeeper.messages.integrity import ScrubReport
    from diffkeeper.messages.store import MaintenanceReport
    from diffkeeper.service.history_service import HistoryService
    from diffkeeper.snapshot.context import CaptureContext
    from diffkeeper.volumes.registry import Registry


class StoreCare:
    """Maintenance, scrubbing and counting of one store. `start` begins, `stop` ends everything."""

    def __init__(
        self,
        context: CaptureContext,
        registry: Registry,
        history: HistoryService,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._store = context.store
        self._registry = registry
        self._history = history
        self._pool = pool
        self.counting = UsageSchedule(context.store, registry.volumes, history.trash.counted)
        scrubber = Scrubber(context.store, context.reader, self._live_directories)
        spare = IdleShare(context.proc_root)
        self._background = MaintenanceThread(Maintenance(context.store), scrubber, spare)

    def start(self) -> None:
        """Start the background work, except counting."""
        self._background.start()

    def stop(self) -> None:
        """Stop it; waits for the step under way."""
        self._background.stop()

    def _live_directories(self) -> list[SalvageSource]:
        return [
            SalvageSource(each.state.record.id, each.live, policy.chunk_bits, policy.exclude)
            for each in self._registry.volumes()
            if each.directory.readable
            for policy in [each.options.policy]
        ]

    def troubles(self) -> list[str]:
        """Everything that needs a person's attention."""
        found = self._background.trouble, self._background.scrubber.trouble
        return [text for text in (*found, self._history.pressure.trouble) if text]

    async def counted(self) -> StoreStatistics:
        """As `stats`, with figures counted now; older ones if that takes too long."""
        await self.counting.now()
        return self.stats()

    def stats(self) -> StoreStatistics:
        """Sizes of the store and of all volumes, in bytes."""
        volumes = self._registry.volumes()
        heads = [volume.state.head for volume in volumes]
        totals = self._store.totals()
        trash = self._history.trash.stored()
        return StoreStatistics(
            volumes=len(volumes),
            snapshots=sum(volume.stored_snapshots for volume in volumes),
            logical_bytes=sum(head.bytes for head in heads if head is not None),
            unique_bytes=totals["chunk_plain_bytes"],
            stored_bytes=totals["stored_bytes"],
            store_used_bytes=self._store.used_bytes(),
            store_file_bytes=self._store.file_bytes(),
            store_max_bytes=self._store.room.bound_bytes,
            trash_stored_bytes=int(trash["trash_stored_bytes"]),
            trash_max_bytes=int(trash["trash_max_bytes"]),
            store_reserve_bytes=self._store.room.reserve_bytes,
            maintenance_wait_ms_max=round(self._store.writer.wait_seconds_max * 1000, 3),
            scrub=self._background.scrubber.shown(),
            accounting=self.counting.shown(),
        )

    async def maintain(self) -> MaintenanceReport:
        """Apply retention, then do all maintenance that is due; returns a report."""
        await self._history.thin()
        return await within(self._pool, self._background.maintenance.run_all)

    async def scrub(self) -> ScrubReport:
        """Read every stored object again and heal what is damaged; returns a report."""
        return await within(self._pool, self._background.scrubber.run_all)

    async def compact(self) -> CompactReport:
        """Give free space of the store back to the file system; returns the bytes of its file."""
        before, after = await within(self._pool, self._store.compact)
        return CompactReport(before, after)
