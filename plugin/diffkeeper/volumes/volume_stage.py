"""The state of a volume, as `lifecycle` defines it, from the facts. Blocks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from diffkeeper.errors import UnreadableError
from diffkeeper.volumes.lifecycle import Facts, State, state_of

if TYPE_CHECKING:
    from diffkeeper.volumes.volume import Volume


def in_use(volume: Volume) -> bool:
    """Whether a counted mount has a container, or may be about to get one.

    Counts alone do not tell: a killed dockerd leaves those of containers that are gone.
    """
    return volume.mounted and not volume.mounts.abandoned()


def stage(volume: Volume, *, mounted: bool) -> State:
    """Lifecycle state of a volume that is not in the trash; `mounted` is the caller's knowledge."""
    try:
        live = mounted or volume.present
    except UnreadableError:
        live = True  # a directory that cannot be read is not gone
    return state_of(
        Facts(
            mounted=mounted,
            live=live,
            stored=volume.state.head is not None,
            replaying=volume.directory.replaying is not None,
            repair=os.path.exists(volume.paths.repair),
        )
    )
