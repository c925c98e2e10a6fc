"""What is done for the store as a whole, on request and in the background; in the event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.engine.maintenance import Maintenance
from diffkeeper.engine.rebuild import Live
from diffkeeper.engine.scrub import Scrubber
from diffkeeper.volumes.background import Background
from diffkeeper.volumes.counting import Counting
from diffkeeper.volumes.threads import within

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from diffkeeper.engine.snapshotter import Tools
    from diffkeeper.volumes.past import Past
    from diffkeeper.volumes.registry import Registry


class Caretaker:
    """Maintenance, scrubbing and counting of one store. `start` begins, `stop` ends it all."""

    def __init__(
        self, tools: Tools, registry: Registry, past: Past, pool: ThreadPoolExecutor
    ) -> None:
        self._store = tools.store
        self._registry = registry
        self._past = past
        self._pool = pool
        self.counting = Counting(tools.store, registry.volumes)
        scrubber = Scrubber(tools.store, tools.reader, self._live_directories)
        self._background = Background(Maintenance(tools.store), scrubber)

    def start(self) -> None:
        """Begin what goes on by itself, but for `counting.keep`."""
        self._background.start()

    def stop(self) -> None:
        """End it; waits for the step under way."""
        self._background.stop()

    def _live_directories(self) -> list[Live]:
        return [
            Live(each.state.record.id, each.live, each.options.chunk_bits)
            for each in self._registry.volumes()
            if each.present
        ]

    def troubles(self) -> list[str]:
        """What needs a person's attention."""
        told = self._background.trouble, self._background.scrubber.trouble
        return [text for text in (*told, self._past.pressure.trouble) if text]

    async def counted(self) -> dict[str, object]:
        """As `stats`, with figures counted now; older ones where that takes too long."""
        await self.counting.now()
        return self.stats()

    def stats(self) -> dict[str, object]:
        """Sizes of the store and of all volumes, in bytes."""
        volumes = self._registry.volumes()
        heads = [volume.state.head for volume in volumes]
        totals = self._store.totals()
        return {
            "volumes": len(volumes),
            "snapshots": sum(volume.stored_snapshots for volume in volumes),
            "logical_bytes": sum(head.bytes for head in heads if head is not None),
            "unique_bytes": totals["chunk_plain_bytes"],
            "stored_bytes": totals["stored_bytes"],
            "store_used_bytes": self._store.used_bytes(),
            "store_file_bytes": self._store.file_bytes(),
            "store_max_bytes": self._store.room.bound_bytes,
            "store_reserve_bytes": self._store.room.reserve_bytes,
            "maintenance_wait_ms_max": round(self._store.writer.wait_seconds_max * 1000, 3),
            "scrub": self._background.scrubber.shown(),
            "accounting": self.counting.shown(),
        }

    async def maintain(self) -> dict[str, object]:
        """Thin out, then do all maintenance that is due; what was done."""
        await self._past.thin()
        return (await within(self._pool, self._background.maintenance.run_all)).as_json()

    async def scrub(self) -> dict[str, object]:
        """Read every stored object again and heal what is damaged; what was found."""
        return (await within(self._pool, self._background.scrubber.run_all)).as_json()

    async def compact(self) -> dict[str, object]:
        """Give free room of the store back to the file system; bytes of its file."""
        before, after = await within(self._pool, self._store.compact)
        return {"store_file_bytes_before": before, "store_file_bytes": after}
