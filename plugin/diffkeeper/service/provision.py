"""Provisioning: a volume is created, cloned, imported, or restored from the trash.

The caller gets an answer once the volume is complete and stored; a step that fails leaves nothing
behind.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from diffkeeper import failpoint
from diffkeeper.errors import BusyError, UnsupportedError
from diffkeeper.fsio import durable
from diffkeeper.messages.volumes import ImportReport
from diffkeeper.service import derived_volumes
from diffkeeper.service.import_commit import Adoption
from diffkeeper.service.threads import within
from diffkeeper.snapshot.volume_state import VolumeState
from diffkeeper.store.store import Batch
from diffkeeper.transfer.archive_read import Importer
from diffkeeper.volumes import options as volume_options
from diffkeeper.volumes import size_limit
from diffkeeper.volumes.names import check_name
from diffkeeper.volumes.volume import Volume

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from diffkeeper.format.records import VolumeRecord
    from diffkeeper.history.trash import Trash
    from diffkeeper.service.workers import Workers
    from diffkeeper.snapshot.context import CaptureContext
    from diffkeeper.transfer.archive_read import Imported
    from diffkeeper.volumes.layout import Layout
    from diffkeeper.volumes.registry import Registry

log = logging.getLogger(__name__)


class Provision:
    """Provisioning, on the event loop."""

    def __init__(
        self,
        registry: Registry,
        context: CaptureContext,
        layout: Layout,
        trash: Trash,
        pools: Workers,
    ) -> None:
        self._registry = registry
        self._context = context
        self._layout = layout
        self._trash = trash
        self._pools = pools
        self._importing = asyncio.Lock()

    async def create(self, name: str, options: dict[str, str]) -> None:
        """Create a volume; a second create of the same name with the same options succeeds, too."""
        check_name(name)
        volume_options.parse_options(options)
        await self._registry.removed(name)
        async with self._registry.naming():
            self._registry.refuse_removal(name)
            present = self._registry.get(name)
            if present is not None:
                derived_volumes.require_same(name, present.volume.state.record.options, options)
                return
            self._registry.refuse_new(name)
            volume = await within(self._pools.steps, self._create, name, options)
            self._registry.add(volume)
        log.info("created", extra={"volume": name, "id": volume.state.record.id})

    def _create(self, name: str, options: dict[str, str]) -> Volume:
        store = self._context.store
        if "size" in options:
            size_limit.refuse_unsupported(self._layout.volumes, self._context.proc_root)
        with store.holding():
            records = {v.name: v.state.record for v in self._registry.volumes()}
            batch = derived_volumes.new(store, name, options, records)
            failpoint.hit("volume.before_create")
            store.commit(batch)
        (record,) = batch.volumes
        try:
            failpoint.hit("volume.after_create")
            volume = self._volume(record)
            if record.head is None:  # otherwise the first mount replays it
                volume.prepare()
                if (lack := volume.status.troubles.get("size")) is not None:
                    raise UnsupportedError(f"option size: {lack}")
        except BaseException:
            # The caller gets an error: the volume must not appear at the next start.
            store.commit(
                Batch(
                    volumes_del={record.id},
                    names_del={name},
                    snapshots_del={each.id for each in batch.snapshots},
                )
            )
            durable.remove_tree(self._layout.volume(record.id).directory)
            raise
        return volume

    async def import_volume(self, name: str, pieces: AsyncIterator[bytes]) -> ImportReport:
        """A new volume from an archive that arrives in pieces. It is visible once it is complete.
        ConflictError for a name that is in use, BusyError while another import runs.
        """
        check_name(name)
        if self._importing.locked():
            raise BusyError("another import is under way; they are taken one after the other")
        async with self._importing:
            self._registry.refuse_new(name)
            importer = Importer(self._context.store)
            with self._context.store.holding():
                async for piece in pieces:
                    await within(self._pools.imports, importer.feed, piece)
                imported = await within(self._pools.imports, importer.finish)
                adoption = Adoption(self._context.store, name, imported)
                try:
                    await within(self._pools.imports, adoption.store)
                    async with self._registry.naming():
                        self._registry.refuse_new(name)
                        volume = await within(self._pools.steps, self._adopt, adoption, imported)
                        self._registry.add(volume)
                except BaseException:
                    await within(self._pools.imports, adoption.discard)
                    raise
        head, number = volume.state.record.head, volume.state.record.id
        log.info("imported", extra={"volume": name, "id": number, "objects": imported.objects})
        return ImportReport(name, len(imported.snapshots), imported.objects, head)

    def _volume(self, record: VolumeRecord) -> Volume:
        state = VolumeState(self._context.store, record)
        return Volume(self._context, state, self._layout.volume(record.id))

    def _adopt(self, adoption: Adoption, imported: Imported) -> Volume:
        record = adoption.finish()
        volume = self._volume(record)
        volume.status.count_forgotten(record.next_seq - 1 - len(imported.snapshots))
        volume.state.stored.count()
        return volume

    async def undelete(self, reference: str, name: str | None) -> str:
        """Restore a removed volume, under another name if one is given; returns its name now.

        The newest `crash` snapshot is replayed at its next mount. NotFoundError; ConflictError if
        several removed volumes had the name, or a volume has it now.
        """
        async with self._registry.naming():
            record = self._trash.find(reference)
            target = record.name if name is None else check_name(name)
            self._registry.refuse_new(
                target,
                "bring the removed one back under another name:"
                f" diffkeeper undelete {reference} --as NAME",
            )
            volume = await within(self._pools.steps, self._undelete, record, target)
            self._registry.add(volume)
        log.info("undeleted", extra={"volume": target, "id": record.id})
        return target

    def _undelete(self, record: VolumeRecord, name: str) -> Volume:
        store = self._context.store
        VolumeState(store, record)  # a volume whose records cannot be read is not restored
        back = self._trash.restore(record, name)
        volume = self._volume(back)
        volume.status.count_forgotten(back.next_seq - 1 - store.snapshot_count(back.id))
        volume.state.stored.count()
        return volume
