"""How often a volume is mounted, by mount id: the counts in its record, and who they stand for.

Changed under the step's lock alone. Blocks on the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper import clock
from diffkeeper.errors import ConflictError
from diffkeeper.fsio import durable
from diffkeeper.volumes.mount_ledger import MountLedger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from diffkeeper.freeze.writers import Writers
    from diffkeeper.snapshot.volume_state import VolumeState


MOUNT_IDS_MAX = 4096  # of one volume: all of them are in its record


class MountCounts:
    """Of one volume. `users`: processes that have it mounted now, counted or not."""

    def __init__(self, state: VolumeState, users: Callable[[], frozenset[int]]) -> None:
        self._state = state
        self._users = users
        self._ledger = MountLedger()
        # During the final capture the record still says mounted, so that a power cut is recognised.
        self._leaving = False

    @property
    def leaving(self) -> bool:
        """Whether the final capture of an unmount is under way; a Mount meanwhile cancels the
        unmount.
        """
        return self._leaving

    @property
    def by_id(self) -> Mapping[str, int]:
        """The counts; none while `leaving`."""
        return {} if self._leaving else self._state.record.mounts

    @property
    def expecting(self) -> bool:
        """Whether a counted mount has a container that was not observed yet."""
        return bool(self._ledger.standing(self._state.record.mounts, clock.monotonic()))

    def inherit(self) -> None:
        """After a restart of the daemon: what is counted is from before it."""
        self._ledger.inherit(self._state.record.mounts)

    def see(self, writers: Writers) -> None:
        """Tell the ledger whose containers were observed."""
        self._ledger.see(self._state.record.mounts, writers.containers, writers.at)

    def add(self, mount_id: str, live_id: str) -> None:
        """Count one mount of this id, durably; ConflictError for one id too many.

        live_id: which live directory is mounted, see `LiveDirectory.identity`.
        """
        counts = self._reconciled(self.by_id)
        if mount_id not in counts and len(counts) >= MOUNT_IDS_MAX:
            name = self._state.record.name
            raise ConflictError(f"{name} is mounted {len(counts)} times already")
        counts[mount_id] = counts.get(mount_id, 0) + 1
        self._ledger.add(mount_id, clock.monotonic())
        self._state.update(mounts=counts, boot_id=durable.boot_id(), clean=False, live_id=live_id)
        self._leaving = False

    def release(self, mount_id: str) -> bool:
        """Count one mount of this id less; true when it was the last one of all.

        Mounts whose containers ended without an Unmount are dropped, whatever their id.
        """
        before = self.by_id
        counts = dict(before)
        counts[mount_id] = counts.get(mount_id, 0) - 1
        counts = self._reconciled({i: n for i, n in counts.items() if n > 0})
        if counts and counts != before:
            self._state.update(mounts=counts)
        self._leaving = self._leaving or (bool(before) and not counts)
        return bool(before) and not counts

    def forget(self) -> None:
        """Record that the volume is not mounted any more."""
        self._ledger.retain({})
        self._state.update(mounts={}, clean=True)
        self._leaving = False

    def abandoned(self) -> bool:
        """Whether every counted mount has lost its container without an Unmount."""
        counts = self.by_id
        return bool(counts) and not self._standing(counts)

    def _standing(self, counts: Mapping[str, int]) -> dict[str, int]:
        """The valid counts; all of them while any process has the volume mounted."""
        left = self._ledger.standing(counts, clock.monotonic())
        return dict(counts) if left == counts or self._users() else left

    def _reconciled(self, counts: Mapping[str, int]) -> dict[str, int]:
        """The valid counts, as `_standing`, and tells the ledger that only these remain."""
        left = self._standing(counts)
        self._ledger.retain(left, nobody=left != counts)
        return left
