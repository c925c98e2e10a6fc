"""The volumes of a daemon by name, with the locks of each. For the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from diffkeeper import limits
from diffkeeper.errors import BusyError, ConflictError, NotFoundError
from diffkeeper.volumes.options import shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from diffkeeper.volumes.volume import Volume

VOLUMES_MAX = 10_000


class Slot:
    """One volume. `lock` is held for a step of its lifecycle; every Mount waits for it.

    looking: held for the final capture of an Unmount, and by steps that must not run beside one;
    taken before `lock`. step: why `lock` is held for long, or nothing. replaced: how often the live
    directory was removed, repaired or replayed.
    """

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.lock = asyncio.Lock()
        self.looking = asyncio.Lock()
        self.step = ""
        self.replaced = 0
        self.replay_task: asyncio.Task[None] | None = None
        self.removal: asyncio.Task[None] | None = None  # while one is under way

    @contextlib.asynccontextmanager
    async def turn(self, step: str) -> AsyncIterator[None]:
        """Hold `lock` for a step that may take long; `step` says what it is."""
        async with self.lock:
            self.step = step
            try:
                yield
            finally:
                self.step = ""


class Registry:
    """Slots by volume name; `naming` is held while a name is assigned. Only for the event loop,
    except `volumes` and `find`.
    """

    def __init__(self) -> None:
        self.slots: dict[str, Slot] = {}
        self.naming = asyncio.Lock()

    def add(self, volume: Volume) -> None:
        """Add a volume under its name."""
        self.slots[volume.name] = Slot(volume)

    def slot(self, name: str) -> Slot:
        """The slot of a volume; NotFoundError."""
        slot = self.slots.get(name)
        if slot is None:
            raise NotFoundError(f"no volume {shown(name)}")
        return slot

    def find(self, name: str) -> Volume:
        """A volume by its name; NotFoundError."""
        return self.slot(name).volume

    def volumes(self) -> list[Volume]:
        """All volumes."""
        return [slot.volume for slot in list(self.slots.values())]

    def require(self, name: str, slot: Slot) -> None:
        """NotFoundError if the volume was removed while its lock was waited for."""
        if self.slots.get(name) is not slot:
            raise NotFoundError(f"no volume {shown(name)}")

    async def removed(self, name: str) -> None:
        """Wait for a removal of this name that is under way, for at most as long as dockerd
        waits.
        """
        slot = self.slots.get(name)
        if slot is not None and slot.removal is not None:
            await asyncio.wait({slot.removal}, timeout=limits.REMOVE_SECONDS_MAX)

    def refuse_removal(self, name: str) -> None:
        """BusyError while a volume of this name is being removed."""
        slot = self.slots.get(name)
        if slot is not None and slot.removal is not None:
            raise BusyError(f"volume {name} is still being removed; try again")

    def refuse_taken(self, name: str, advice: str = "choose another name") -> None:
        """ConflictError for a name that is in use, or if there are too many volumes."""
        if name in self.slots:
            raise ConflictError(f"a volume {name} exists; {advice}")
        if len(self.slots) >= VOLUMES_MAX:
            raise ConflictError(f"there are {len(self.slots)} volumes already")
