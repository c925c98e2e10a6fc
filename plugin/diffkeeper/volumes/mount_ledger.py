"""Which counted mounts are still valid when no process has the volume mounted.

An engine that was killed sends no Unmount for containers that ended meanwhile, and a restarted one
mounts under other ids. So a count does not prove that the volume is in use. Neither do missing
processes prove that it is not: between Mount and the start of its container nobody has the volume
mounted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MOUNT_SETTLE_SECONDS = 300.0  # from a mount to its container's start, at most


class MountLedger:
    """Mounts by id and what was observed of them. The counts are in the volume's record. Times are
    seconds on the monotonic clock.
    """

    def __init__(self) -> None:
        self._inherited: dict[str, int] = {}  # mounts from before this daemon, by id
        self._held: dict[str, float] = {}  # when an id was last mounted
        self._arrived: set[str] = set()  # ids whose containers were observed

    def inherit(self, counts: Mapping[str, int]) -> None:
        """Take over counts from before this daemon: their containers started long ago, if at
        all.
        """
        self._inherited = dict(counts)

    def add(self, mount_id: str, now: float) -> None:
        """Record one more mount of this id: its container is about to start."""
        self._held[mount_id] = now
        self._arrived.discard(mount_id)

    def see(self, counts: Mapping[str, int], containers: int, at: float) -> None:
        """Record that so many containers had the volume mounted at a moment.

        If there are as many as mounts, all containers have started, except for mounts after `at`.
        """
        if counts and containers >= len(counts):
            self._arrived.update(i for i in counts if self._held.get(i, at) <= at)

    def standing(self, counts: Mapping[str, int], now: float) -> dict[str, int]:
        """The counts without mounts whose containers are gone, given that no process has the volume
        mounted.
        """
        left = {i: n - self._gone(i, n, now) for i, n in counts.items()}
        return {i: n for i, n in left.items() if n > 0}

    def _gone(self, mount_id: str, count: int, now: float) -> int:
        settled = now - MOUNT_SETTLE_SECONDS
        if mount_id in self._arrived or self._held.get(mount_id, settled) <= settled:
            return count
        return min(count, self._inherited.get(mount_id, 0))

    def retain(self, counts: Mapping[str, int], *, nobody: bool = False) -> None:
        """Forget ids that are not in `counts`; with `nobody`, no container of the remaining ids
        runs.
        """
        old = {} if nobody else self._inherited
        self._inherited = {i: min(n, counts[i]) for i, n in old.items() if i in counts}
        self._held = {i: at for i, at in self._held.items() if i in counts}
        self._arrived = set() if nobody else self._arrived & counts.keys()
