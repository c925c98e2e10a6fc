"""Where one volume is in its life, as `lifecycle` defines it, from the facts.

Only the holder of the step's lock asks: what it is told stays so until its step is over.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from diffkeeper.errors import UnreadableError
from diffkeeper.volumes import lifecycle
from diffkeeper.volumes.lifecycle import Event, Facts, State

if TYPE_CHECKING:
    from diffkeeper.snapshot.volume_state import VolumeState
    from diffkeeper.volumes.layout import VolumePaths
    from diffkeeper.volumes.live import LiveDirectory
    from diffkeeper.volumes.mount_counts import MountCounts


class VolumeLife:
    """Of a volume that is not in the trash. Blocks, except `remembered`."""

    def __init__(
        self,
        state: VolumeState,
        paths: VolumePaths,
        directory: LiveDirectory,
        mounts: MountCounts,
    ) -> None:
        self._state = state
        self._paths = paths
        self._directory = directory
        self._mounts = mounts

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
        state = self._stage(mounted, certain=event is Event.MOUNT)
        lifecycle.require(state, event, refusal)
        return state

    def _stage(self, mounted: bool, *, certain: bool) -> State:
        try:
            live = mounted or self._directory.present
        except UnreadableError:
            if certain:
                raise
            live = True  # a directory that cannot be read is not gone
        return lifecycle.state_of(
            Facts(
                mounted=mounted,
                live=live,
                stored=self._state.head is not None,
                replaying=self._directory.replaying is not None,
                repair=live and not mounted and os.path.exists(self._paths.repair),
            )
        )

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
