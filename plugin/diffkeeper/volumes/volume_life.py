"""Where one volume is in its life, as `lifecycle` defines it, from the facts.

Only the holder of the step's lock asks: what it is told stays so until its step is over.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from diffkeeper.errors import ConflictError, UnreadableError
from diffkeeper.volumes import lifecycle
from diffkeeper.volumes.lifecycle import Event, Facts, State

if TYPE_CHECKING:
    from diffkeeper.snapshot.volume_state import VolumeState
    from diffkeeper.volumes.layout import VolumePaths
    from diffkeeper.volumes.live import LiveDirectory
    from diffkeeper.volumes.mount_counts import MountCounts
    from diffkeeper.volumes.troubles import Troubles

log = logging.getLogger(__name__)


class VolumeLife:
    """Of a volume that is not in the trash. Blocks, except `remembered`."""

    def __init__(
        self,
        state: VolumeState,
        paths: VolumePaths,
        directory: LiveDirectory,
        mounts: MountCounts,
        troubles: Troubles,
    ) -> None:
        self._state = state
        self._paths = paths
        self._directory = directory
        self._mounts = mounts
        self._troubles = troubles
        self._restart: tuple[frozenset[State], Event] | None = None  # not checked yet

    def restarted(self, *, mounted: bool, rebooted: bool) -> None:
        """The volume is from before this daemon: what the next step finds has to follow from that,
        or is a trouble. mounted: whether mounts were counted; rebooted: in another boot.
        """
        before = lifecycle.LEFT_MOUNTED if mounted else lifecycle.LEFT_UNMOUNTED
        self._restart = before, Event.REBOOT if rebooted else Event.DAEMON_KILLED

    def in_use(self) -> bool:
        """Whether a counted mount has a container, or may be about to get one.

        Counts alone do not tell: a killed dockerd leaves those of containers that are gone.
        """
        return bool(self._mounts.by_id) and not self._mounts.abandoned()

    def require(self, event: Event, refusal: str = "", *, mounted: bool | None = None) -> State:
        """The state, which lists the event; ConflictError, with this text if there is one, where it
        does not. UnreadableError for a mount of what cannot be read; that counts as present else.

        mounted: whether it is; as the counts say if that is not given.
        """
        if mounted is None:
            mounted = bool(self._mounts.by_id)
        facts = self._facts(mounted, certain=event is Event.MOUNT)
        self._check_restart(facts)
        state = lifecycle.state_of(facts)
        lifecycle.require(state, event, refusal)
        return state

    def follow(self, before: State, event: Event) -> None:
        """ConflictError where this event, which nobody asked for, does not lead from there to what
        is found.
        """
        facts = self._facts(bool(self._mounts.by_id), certain=False)
        self._check_restart(facts)
        lifecycle.follow(frozenset({before}), event, lifecycle.state_of(facts))

    def lost(self) -> bool:
        """Whether a live directory that a container has used is gone; UnreadableError. For any
        thread.

        A clone, an import or a restored volume from the trash has none before its first mount.
        """
        record = self._state.record
        if not record.boot_id or record.head is None or self._directory.present:
            return False
        facts = Facts(mounted=bool(record.mounts), live=False, stored=True)
        before = lifecycle.LEFT_MOUNTED if facts.mounted else lifecycle.WITH_LIVE
        lifecycle.follow(before, Event.LOST, lifecycle.state_of(facts))
        return True

    def _facts(self, mounted: bool, *, certain: bool) -> Facts:
        try:
            live = mounted or self._directory.present
        except UnreadableError:
            if certain:
                raise
            live = True  # a directory that cannot be read is not gone
        return Facts(
            mounted=mounted,
            live=live,
            stored=self._state.head is not None,
            replaying=self._directory.replaying is not None,
            repair=live and not mounted and os.path.exists(self._paths.repair),
        )

    def _check_restart(self, facts: Facts) -> None:
        """Report what does not follow from the end of the last daemon; the step goes on with what
        there is, since a container's start must not fail for it.
        """
        if self._restart is None:
            return
        (before, event), self._restart = self._restart, None
        # Counts without containers are found out later, and are mounts until then.
        counted = replace(facts, mounted=True) if self._mounts.by_id else facts
        try:
            lifecycle.follow(before, event, lifecycle.state_of(counted))
        except ConflictError as error:
            self._troubles.begin("life", str(error))
            fields = {"volume": self._state.record.name, "error": str(error)}
            log.error("life_contradicted", extra=fields)

    def remembered(self) -> State:
        """The state as far as memory tells: the live directory counts as present."""
        return lifecycle.state_of(
            Facts(
                mounted=bool(self._mounts.by_id),
                live=True,
                stored=self._state.head is not None,
                replaying=self._directory.replaying is not None,
            )
        )
