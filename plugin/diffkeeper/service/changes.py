"""Changes of existing volumes: options, name. On the event loop."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from diffkeeper import counters
from diffkeeper.errors import BusyError
from diffkeeper.service.threads import within
from diffkeeper.store.store import Batch
from diffkeeper.volumes import options as volume_options
from diffkeeper.volumes.lifecycle import Event
from diffkeeper.volumes.names import check_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import ThreadPoolExecutor

    from diffkeeper.service.scheduler import Scheduler
    from diffkeeper.volumes.registry import Registry
    from diffkeeper.volumes.volume import Volume

log = logging.getLogger(__name__)


class Changes:
    """`steps`: pool for short steps."""

    def __init__(self, registry: Registry, scheduler: Scheduler, steps: ThreadPoolExecutor) -> None:
        self._registry = registry
        self._scheduler = scheduler
        self._steps = steps

    async def set_options(self, name: str, given: Mapping[str, str | None]) -> None:
        """Set options of a volume, None for the default; durable and in force when it returns.

        Containers may have it mounted. InvalidInputError for an option that cannot be changed; then
        nothing is. NotFoundError.
        """
        slot = self._registry.slot(name)
        async with slot.final_capture(), slot.turn("its options are being changed"):
            self._registry.require(name, slot)
            volume = slot.volume
            options = volume_options.changed(volume.state.record.options, given)
            if options == volume.state.record.options:
                return
            await within(self._steps, _refuse_size, volume, options)
            # A signature may be of a file that is now left out, or that was.
            other = options.get("exclude") != volume.state.record.options.get("exclude")
            batch = Batch(drop_index={volume.state.record.id} if other else set())
            await within(self._steps, volume.state.commit, batch, options=options)
            watched = volume.watched is not None
            await self._scheduler.remove(volume)
            await within(self._steps, volume.apply_options)
            if watched and volume.mounted:
                self._scheduler.add(volume)
        log.info("options_set", extra={"volume": name, "options": ",".join(sorted(given))})

    async def rename(self, name: str, target: str) -> None:
        """Rename a volume; durable when it returns.

        NotFoundError; ConflictError while it is mounted, or when the name is in use; BusyError
        during another step.
        """
        check_name(target)
        async with self._registry.naming():
            slot = self._registry.slot(name)
            self._registry.refuse_taken(target)
            if slot.busy:  # which may last, and must not hold up the assignment of names
                raise BusyError(f"something else is being done with {name}; try again")
            async with slot.turn():
                await within(self._steps, _rename, slot.volume, target)
                self._registry.rename(name, target)
        counters.forget(name)
        log.info("renamed", extra={"volume": target, "before": name})


def _refuse_size(volume: Volume, options: Mapping[str, str]) -> None:
    """Refuse a limit of size that cannot be set, see `SizeLimit.refuse`."""
    wanted = volume_options.parse_options(options).size_bytes
    if wanted not in (None, volume.options.size_bytes):
        volume.directory.limit.refuse(mounted=volume.mounted)


def _rename(volume: Volume, target: str) -> None:
    refusal = f"volume {volume.name} is in use: stop its containers before it gets another name"
    volume.life.require(Event.RENAME, refusal)
    volume.close()
    batch = Batch(names_del={volume.name}, names_put={target: volume.state.record.id})
    volume.state.commit(batch, name=target)
