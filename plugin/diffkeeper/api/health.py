"""Whether the daemon is well: its own troubles beside those of the volume service."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffkeeper.api.contract import Service


class Health:
    """State that the listeners share; touched by the event loop alone."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.loading = True
        self.listen = ""  # address of the TCP listener as bound; empty when there is none
        self.listener_trouble = ""
        self.refusal = ""  # why the state was not loaded, and will not be

    def troubles(self) -> list[str]:
        """Everything a person should look at, one sentence each; empty when all is well."""
        loading = self.refusal or "the state is still being loaded"
        own = [loading] if self.loading else []
        own += [self.listener_trouble] if self.listener_trouble else []
        return own + list(self._service.troubles())
