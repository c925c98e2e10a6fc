"""What of the history is deleted early when space is short, and in which order.

Volumes that were removed more than an hour ago go first; then histories are thinned as if time had
passed, by their own retention, the largest first; then volumes that were removed lately. Blocks.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from diffkeeper import counters
from diffkeeper.volumes.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from diffkeeper.fsio.room import Levels
    from diffkeeper.history.retention import Retention
    from diffkeeper.history.trash import Trash
    from diffkeeper.store.store import Store
    from diffkeeper.volumes.volume import Volume

log = logging.getLogger(__name__)

TRASH_YIELD_SECONDS = 3_600.0  # volumes that were removed later go only after histories are thinned
YIELD_STEPS_MAX = 256  # volumes that are thinned in one call


class Pressure:
    """Early deletion for one store; one thread calls `relieve`, any thread may read."""

    def __init__(
        self,
        store: Store,
        retention: Retention,
        trash: Trash,
        volumes: Callable[[], Sequence[Volume]],
    ) -> None:
        self._store = store
        self._retention = retention
        self._trash = trash
        self._volumes = volumes
        self._given = 0  # bytes freed since the last collection, as far as known
        self._note = ""
        self._trouble = ""

    @property
    def note(self) -> str:
        """That history is thinned early now, and why; or ""."""
        return self._note

    @property
    def trouble(self) -> str:
        """That nothing more may go, although space is short; or ""."""
        return self._trouble

    def relieve(self) -> None:
        """Delete as much as needed; call it regularly. NoSpaceError, CorruptionError."""
        self._store.keep_ballast()
        heads = [volume.state.head for volume in self._volumes()]
        room = self._store.room
        room.live_bytes = sum(head.bytes for head in heads if head is not None)
        levels = self._store.levels()
        if room.refused and not room.refusal(levels, room.refused):
            room.refused = 0
        excess = room.excess(levels)
        self._tell(levels, excess)
        if not excess:
            return
        if not self._store.repack.garbage:
            self._given = 0
        found = self._give(excess - self._given)
        if self._store.repack.garbage:
            self._store.repack.urgent = True
        if not found and not self._store.repack.garbage:
            room.refused = 0
        stuck = not found and not self._store.repack.garbage
        self._trouble = f"{self._note}, and has nothing more that may go" if stuck else ""
        if levels.free < 2 * room.reserve_bytes and levels.room > levels.free:
            self._store.give_back()

    def _tell(self, levels: Levels, excess: int) -> None:
        before, room = self._note, self._store.room
        self._note = ""
        if excess:
            self._note = (
                f"history is thinned early: it takes {format_size(levels.used)} of at most"
                f" {format_size(room.bound_bytes)}, {format_size(levels.free)} are free, and"
                f" {format_size(room.reserve_bytes)} are for live data"
            )
        else:
            self._trouble = ""
        if bool(before) != bool(excess):
            fields = {"used_bytes": levels.used, "free_bytes": levels.free, "excess": excess}
            if excess:
                log.info("history_yields", extra=fields)
            else:
                log.info("history_has_room", extra=fields)

    def _give(self, wanted: int) -> int:
        """Delete so many bytes if possible; returns how many snapshots and volumes went."""
        goal = self._given + wanted
        done = 0
        while self._given < goal and self._purge(TRASH_YIELD_SECONDS):
            done += 1
        candidates = list(self._volumes())
        for _ in range(YIELD_STEPS_MAX):
            if self._given >= goal or not candidates:
                break
            volume = max(candidates, key=lambda each: each.state.stored.bytes)
            count, size = self._retention.hasten(volume)
            if count:
                counters.add("yielded_total", count, volume=volume.name)
                self._given += size
                done += count
            else:
                candidates.remove(volume)
        while self._given < goal and not candidates and self._purge(0.0):
            done += 1
        return done

    def _purge(self, seconds: float) -> bool:
        """Purge the first removed volume if it was removed so long ago; false if there is none."""
        purged = self._trash.purge_first(seconds)
        self._given += purged or 0
        return purged is not None
