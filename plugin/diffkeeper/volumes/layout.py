"""Paths of the daemon's files and of each volume's; no other module spells them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

_LIVE: Final = "live"


@dataclass(frozen=True, slots=True)
class VolumePaths:
    """Paths of one volume. `directory` contains all but `mountpoint`; `on_host`: the live directory
    as the host names it; "" where that is not known.
    """

    directory: str
    mountpoint: str
    on_host: str

    @property
    def live(self) -> str:
        """The live directory, which is bound into containers; it is complete when it is there."""
        return os.path.join(self.directory, _LIVE)

    @property
    def incoming(self) -> str:
        """Where a replay writes, before it is renamed to `live`."""
        return os.path.join(self.directory, "incoming")

    @property
    def removed(self) -> str:
        """The live directory of a removed volume, being deleted."""
        return os.path.join(self.directory, "removed")

    @property
    def repair(self) -> str:
        """Journal of a repair under way."""
        return os.path.join(self.directory, "repair")

    @property
    def shown(self) -> str:
        """The live directory as messages name it."""
        return self.on_host or self.live

    @property
    def restored(self) -> str:
        """Where messages tell people to restore to: beside the live directory, see `shown`."""
        return os.path.join(os.path.dirname(self.shown), "restored")


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one daemon: state directory and directory of mount points; on_host: `volumes` as the
    host names it; "" where that is not known.
    """

    state: str
    mounts: str
    on_host: str = ""

    @property
    def store(self) -> str:
        """Directory of the store."""
        return os.path.join(self.state, "store")

    @property
    def volumes(self) -> str:
        """Directory of all volumes; each has a subdirectory named by its id."""
        return os.path.join(self.state, "volumes")

    @property
    def freeze_journal(self) -> str:
        """Journal of the freeze under way."""
        return os.path.join(self.state, "freeze.journal")

    def volume(self, number: int) -> VolumePaths:
        """Paths of the volume with this id."""
        return VolumePaths(
            os.path.join(self.volumes, str(number)),
            os.path.join(self.mounts, str(number)),
            self.live_on_host(number),
        )

    def live_on_host(self, number: int) -> str:
        """The live directory of a volume as the host names it; "" where that is not known."""
        return os.path.join(self.on_host, str(number), _LIVE) if self.on_host else ""
