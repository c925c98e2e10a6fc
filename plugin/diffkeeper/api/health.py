"""The daemon's health: its own troubles and those of the volume service."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffkeeper.service.service import VolumeService


class Health:
    """Health shared by the listeners; used only on the event loop."""

    def __init__(self, service: VolumeService) -> None:
        self._service = service
        self.loading = True
        self.listen = ""  # address of the TCP listener; empty when there is none
        self.listener_trouble = ""
        self.refusal = ""  # why the state was not loaded, and will not be

    def troubles(self) -> list[str]:
        """Everything that needs a person's attention, one sentence each; empty when there is
        nothing.
        """
        loading = self.refusal or "the state is still being loaded"
        own = [loading] if self.loading else []
        own += [self.listener_trouble] if self.listener_trouble else []
        return own + list(self._service.troubles())
