"""The volumes of a daemon by name, with the locks of each. For the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from diffkeeper import limits
from diffkeeper.errors import BusyError, ConflictError, NotFoundError
from diffkeeper.volumes import lifecycle
from diffkeeper.volumes.lifecycle import Event, State
from diffkeeper.volumes.names import shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from diffkeeper.volumes.volume import Volume

VOLUMES_MAX = 10_000


class Slot:
    """One volume with its locks, and the long steps of its lifecycle that are under way."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._lock = asyncio.Lock()
        self._final_capture = asyncio.Lock()
        self._step = ""
        self._replaced = 0
        self._replay: asyncio.Task[None] | None = None
        self._removal: asyncio.Task[None] | None = None

    @property
    def volume(self) -> Volume:
        """The volume."""
        return self._volume

    @property
    def step(self) -> str:
        """Which step that may take long holds the lock; empty if none does."""
        return self._step

    @property
    def busy(self) -> bool:
        """Whether a step of its lifecycle or a final capture is under way."""
        return self._lock.locked() or self._final_capture.locked()

    @contextlib.asynccontextmanager
    async def turn(self, step: str = "") -> AsyncIterator[None]:
        """Hold the lock for a step of its lifecycle; every Mount waits for it. `step` says what
        may take long.
        """
        async with self._lock:
            self._step = step
            try:
                yield
            finally:
                self._step = ""

    def final_capture(self) -> AbstractAsyncContextManager[None]:
        """Held for the final capture of an Unmount, and by steps that must not run beside one;
        taken before `turn`.
        """
        return self._final_capture

    @property
    def replaced(self) -> int:
        """How often the live directory was removed, repaired or replayed."""
        return self._replaced

    def replace_live(self) -> None:
        """The live directory is about to be removed, repaired or replayed."""
        self._replaced += 1

    def join_replay(self, begin: Callable[[], asyncio.Task[None]]) -> asyncio.Task[None]:
        """The replay under way, or the one that `begin` begins."""
        if self._replay is None or self._replay.done():
            self._replay = begin()
        return self._replay

    def join_removal(self, begin: Callable[[], asyncio.Task[None]]) -> asyncio.Task[None]:
        """The removal under way, or the one that `begin` begins."""
        if self._removal is None or self._removal.done():
            self._removal = begin()
        return self._removal

    @property
    def removal(self) -> asyncio.Task[None] | None:
        """The removal under way, if there is one."""
        return None if self._removal is None or self._removal.done() else self._removal


class Registry:
    """Slots by volume name. Only for the event loop, except `volumes` and `find`."""

    def __init__(self) -> None:
        self._slots: dict[str, Slot] = {}
        self._naming = asyncio.Lock()

    def naming(self) -> AbstractAsyncContextManager[None]:
        """Held while a name is assigned."""
        return self._naming

    def add(self, volume: Volume) -> None:
        """Add a volume under its name."""
        self._slots[volume.name] = Slot(volume)

    def rename(self, name: str, target: str) -> None:
        """The volume has another name from now on."""
        self._slots[target] = self._slots.pop(name)

    def drop(self, name: str) -> None:
        """The volume was removed."""
        del self._slots[name]

    def get(self, name: str) -> Slot | None:
        """The slot of a volume, if there is one of this name."""
        return self._slots.get(name)

    def by_name(self) -> list[tuple[str, Slot]]:
        """All slots, in the order of their names."""
        return sorted(self._slots.items())

    def slots(self) -> list[Slot]:
        """All slots, in the order in which they came."""
        return list(self._slots.values())

    def slot(self, name: str) -> Slot:
        """The slot of a volume; NotFoundError."""
        slot = self._slots.get(name)
        if slot is None:
            raise NotFoundError(f"no volume {shown(name)}")
        return slot

    def find(self, name: str) -> Volume:
        """A volume by its name; NotFoundError."""
        return self.slot(name).volume

    def volumes(self) -> list[Volume]:
        """All volumes."""
        return [slot.volume for slot in self.slots()]

    def require(self, name: str, slot: Slot) -> None:
        """NotFoundError if the volume was removed while its lock was waited for."""
        if self._slots.get(name) is not slot:
            raise NotFoundError(f"no volume {shown(name)}")

    async def removed(self, name: str) -> None:
        """Wait for a removal of this name that is under way, for at most as long as dockerd
        waits.
        """
        slot = self._slots.get(name)
        if slot is not None and slot.removal is not None:
            await asyncio.wait({slot.removal}, timeout=limits.REMOVE_SECONDS_MAX)

    def refuse_removal(self, name: str) -> None:
        """BusyError while a volume of this name is being removed."""
        slot = self._slots.get(name)
        if slot is not None and slot.removal is not None:
            raise BusyError(f"volume {name} is still being removed; try again")

    def refuse_taken(self, name: str, advice: str = "choose another name") -> None:
        """ConflictError for a name that is in use."""
        slot = self._slots.get(name)
        state = slot.volume.life.remembered() if slot is not None else State.ABSENT
        lifecycle.require(state, Event.CREATE, f"a volume {name} exists; {advice}")

    def refuse_new(self, name: str, advice: str = "choose another name") -> None:
        """ConflictError for a name that is in use, or if there are too many volumes."""
        self.refuse_taken(name, advice)
        if len(self._slots) >= VOLUMES_MAX:
            raise ConflictError(f"there are {len(self._slots)} volumes already")
