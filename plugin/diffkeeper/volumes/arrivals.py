"""How a volume comes to be: created, cloned, imported, or brought back from the trash.

Whoever asks is told of a volume that is whole and stored; a step that fails leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from diffkeeper import failpoint
from diffkeeper.engine.importing import Importer
from diffkeeper.engine.volume import VolumeState
from diffkeeper.errors import BusyError
from diffkeeper.fsio import durable
from diffkeeper.store.store import Batch
from diffkeeper.volumes import options as volume_options
from diffkeeper.volumes import origin
from diffkeeper.volumes.adoption import Adoption
from diffkeeper.volumes.threads import Pools, within
from diffkeeper.volumes.volume import Places, Volume

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from diffkeeper.engine.importing import Imported
    from diffkeeper.engine.snapshotter import Tools
    from diffkeeper.format.records import VolumeRecord
    from diffkeeper.volumes.model import Json
    from diffkeeper.volumes.registry import Registry
    from diffkeeper.volumes.trash import Trash

log = logging.getLogger(__name__)


class Arrivals:
    """In the event loop."""

    def __init__(
        self,
        registry: Registry,
        tools: Tools,
        places: Places,
        trash: Trash,
        pools: Pools,
    ) -> None:
        self._registry = registry
        self._tools = tools
        self._places = places
        self._trash = trash
        self._pools = pools
        self._importing = asyncio.Lock()

    async def create(self, name: str, options: dict[str, str]) -> None:
        """Create a volume; a second create of the same name with the same options is the same."""
        volume_options.check_name(name)
        volume_options.parse_options(options)
        await self._registry.removed(name)
        async with self._registry.naming:
            self._registry.refuse_removal(name)
            present = self._registry.slots.get(name)
            if present is not None:
                origin.require_same(name, present.volume.state.record.options, options)
                return
            self._registry.refuse_taken(name)
            volume = await within(self._pools.steps, self._create, name, options)
            self._registry.add(volume)
        log.info("created", extra={"volume": name, "id": volume.state.record.id})

    def _create(self, name: str, options: dict[str, str]) -> Volume:
        store = self._tools.store
        with store.holding():
            records = {v.name: v.state.record for v in self._registry.volumes()}
            batch = origin.new(store, name, options, records)
            failpoint.hit("volume.before_create")
            store.commit(batch)
        (record,) = batch.volumes
        try:
            failpoint.hit("volume.after_create")
            volume = Volume(self._tools, VolumeState(store, record), self._places)
            if record.head is None:  # else the first mount replays it, and has the time for that
                volume.prepare()
        except BaseException:
            # Its caller is told that there is none: it must not show up at the next start.
            store.commit(
                Batch(
                    volumes_del={record.id},
                    names_del={name},
                    snapshots_del={(each.volume_id, each.seq) for each in batch.snapshots},
                )
            )
            durable.remove_tree(os.path.join(self._places.volumes, str(record.id)))
            raise
        return volume

    async def import_volume(self, name: str, pieces: AsyncIterator[bytes]) -> Json:
        """A new volume from an archive that comes in pieces. Nothing is to be seen of it before
        it is whole. ConflictError for a name that is taken, BusyError while another import runs.
        """
        volume_options.check_name(name)
        if self._importing.locked():
            raise BusyError("another import is under way; they are taken one after the other")
        async with self._importing:
            self._registry.refuse_taken(name)
            importer = Importer(self._tools.store)
            with self._tools.store.holding():
                async for piece in pieces:
                    await within(self._pools.imports, importer.feed, piece)
                imported = await within(self._pools.imports, importer.finish)
                adoption = Adoption(self._tools.store, name, imported)
                try:
                    await within(self._pools.imports, adoption.store)
                    async with self._registry.naming:
                        self._registry.refuse_taken(name)
                        volume = await within(self._pools.steps, self._adopt, adoption, imported)
                        self._registry.add(volume)
                except BaseException:
                    await within(self._pools.imports, adoption.discard)
                    raise
        head, number = volume.state.record.head, volume.state.record.id
        log.info("imported", extra={"volume": name, "id": number, "objects": imported.objects})
        found = {"snapshots": len(imported.snapshots), "objects": imported.objects, "head": head}
        return {"volume": name, **found}

    def _adopt(self, adoption: Adoption, imported: Imported) -> Volume:
        record = adoption.finish()
        volume = Volume(self._tools, VolumeState(self._tools.store, record), self._places)
        volume.forgotten = record.next_seq - 1 - len(imported.snapshots)
        volume.state.stored.count()
        return volume

    async def undelete(self, reference: str, name: str | None) -> str:
        """Bring a removed volume back, under another name if one is given: the name it has now.

        The newest `crash` snapshot is replayed at its next mount. NotFoundError; ConflictError
        where several removed volumes had the name, or a volume has it now.
        """
        async with self._registry.naming:
            record = self._trash.find(reference)
            target = record.name if name is None else volume_options.check_name(name)
            self._registry.refuse_taken(
                target,
                "bring the removed one back under another name:"
                f" diffkeeper undelete {reference} --as NAME",
            )
            volume = await within(self._pools.steps, self._undelete, record, target)
            self._registry.add(volume)
        log.info("undeleted", extra={"volume": target, "id": record.id})
        return target

    def _undelete(self, record: VolumeRecord, name: str) -> Volume:
        store = self._tools.store
        VolumeState(store, record)  # what cannot be read is not brought back
        back = self._trash.restore(record, name)
        volume = Volume(self._tools, VolumeState(store, back), self._places)
        volume.forgotten = back.next_seq - 1 - store.snapshot_count(back.id)
        volume.state.stored.count()
        return volume
