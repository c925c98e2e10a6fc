"""What this machine offers to eBPF captures, as the daemon and the doctor show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.capture import probe
from diffkeeper.volumes.model import FeatureView

if TYPE_CHECKING:
    from collections.abc import Iterable

    from diffkeeper.capture.features import Feature
    from diffkeeper.capture.probe import Sources


def views(found: Iterable[Feature]) -> list[FeatureView]:
    """Features as they are shown."""
    return [FeatureView(each.name, each.support, each.reason) for each in found]


def of_daemon(sources: Sources, *, look: bool) -> list[FeatureView]:
    """As far as volumes have asked; `look`: where none has, what shows without loading anything."""
    return views(sources.look() if look else sources.features())


def of_machine(headers: str) -> list[FeatureView]:
    """Without a daemon, from a process that ends soon; `headers` as in the setting, or empty."""
    return views(probe.look(headers, own_process=True))
