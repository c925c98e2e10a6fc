"""Replays of lost live directories: in advance, and while a Mount waits.

On the event loop. A replay does not belong to a Mount: it continues when the Mount that began it
has given up, and later Mounts join it, or find it done.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from diffkeeper import counters, limits
from diffkeeper.errors import BusyError, DiffKeeperError, described
from diffkeeper.service.threads import within

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Iterable, Iterator

    from diffkeeper.service.tasks import Tasks
    from diffkeeper.service.workers import Workers
    from diffkeeper.volumes.registry import Slot
    from diffkeeper.volumes.volume import Volume

log = logging.getLogger(__name__)


class Replays:
    """The replays of one daemon. `unschedule` ends the scheduled captures of a volume."""

    def __init__(
        self, tasks: Tasks, pools: Workers, unschedule: Callable[[Volume], Awaitable[None]]
    ) -> None:
        self._tasks = tasks
        self._pools = pools
        self._unschedule = unschedule

    def _begun(self, slot: Slot) -> asyncio.Task[None]:
        """The task that makes the live directory complete: the one under way, or a new one."""
        return slot.join_replay(lambda: self._tasks.spawn(self._prepare(slot)))

    async def joined(self, slot: Slot, seconds_max: float) -> None:
        """Return once the live directory is complete. BusyError when that takes longer; the replay
        continues.
        """
        try:
            await asyncio.wait_for(asyncio.shield(self._begun(slot)), seconds_max)
        except TimeoutError:
            why = slot.step or slot.volume.directory.waiting_for
            raise BusyError(
                f"volume {slot.volume.name} is not mounted yet: {why}; start the container again"
            ) from None

    async def _prepare(self, slot: Slot) -> None:
        async with slot.turn():
            if slot.volume.watched is None or not slot.volume.present:
                await self._unschedule(slot.volume)
                await within(self._pools.steps, slot.volume.close)
                # What is there is only looked at, and waits for no replay of another volume.
                pool = self._pools.steps
                if not slot.volume.present:
                    slot.replace_live()
                    pool = self._pools.replays
                with _failure_reported(slot.volume):
                    await within(pool, slot.volume.prepare)
                slot.volume.status.troubles.end("live", "capture")

    async def foresee(self, slots: Iterable[Slot], in_use: Container[str]) -> None:
        """Replay in advance what containers will mount: first the volumes that were in use when the
        last daemon ended (`in_use`), small ones first.

        Half of the threads are reserved for Mounts, which begin their own replays.
        """

        def order(slot: Slot) -> tuple[bool, int]:
            head = slot.volume.state.head
            return slot.volume.name not in in_use, head.bytes if head is not None else 0

        waiting = iter(sorted(slots, key=order))

        async def one_after_the_other() -> None:
            for slot in waiting:
                await self._foreseen(slot)

        threads = max(1, limits.REPLAYS_MAX // 2)
        await asyncio.gather(*(one_after_the_other() for _ in range(threads)))

    async def _foreseen(self, slot: Slot) -> None:
        volume = slot.volume
        with contextlib.suppress(DiffKeeperError, OSError):  # reported, and a Mount meets it again
            with _failure_reported(volume):
                lost = slot.removal is None and await within(self._pools.steps, volume.life.lost)
                if not lost:
                    return
            log.warning("replay_foreseen", extra={"volume": volume.name, "live": volume.live})
            await asyncio.shield(self._begun(slot))
            recovery = volume.status.recovery
            fields = {"volume": volume.name, "ms": recovery and recovery.milliseconds}
            log.info("replayed", extra=fields)


@contextlib.contextmanager
def _failure_reported(volume: Volume) -> Iterator[None]:
    """An error inside is counted, and is the volume's trouble until a replay succeeds."""
    try:
        yield
    except (DiffKeeperError, OSError) as error:
        counters.add("replay_failures_total", volume=volume.name, error=type(error).__name__)
        text = f"it has no live directory to mount: {described(error)}"
        volume.status.troubles.begin("live", text)
        log.error("replay_failed", extra={"volume": volume.name, "error": described(error)})
        raise
