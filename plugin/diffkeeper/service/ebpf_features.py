"""eBPF features of this machine, as the daemon and the doctor show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.messages.machine import FeatureView
from diffkeeper.sources import ladder
from diffkeeper.sources.ebpf import probe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from diffkeeper.messages.volumes import CaptureView, VolumeView
    from diffkeeper.sources.ebpf.features import Feature
    from diffkeeper.sources.ebpf.probe import Sources


def views(found: Iterable[Feature]) -> list[FeatureView]:
    """Features as shown."""
    return [FeatureView(each.name, each.support, each.reason) for each in found]


def of_daemon(sources: Sources, *, look: bool) -> list[FeatureView]:
    """Features that volumes have tried; `look`: if none has, what is known without loading
    anything.
    """
    return views(sources.preview() if look else sources.features())


def of_machine(headers: str) -> list[FeatureView]:
    """Without a daemon, from a process that ends soon; `headers` as in the setting, or empty."""
    return views(probe.inspect(headers, own_process=True))


def less_than_asked(view: VolumeView, capture: CaptureView) -> bool:
    """Whether a volume has a coarser source than it could have, or one that does not watch
    everything.

    `capture`: that part of its status.
    """
    asked, used = view.options.get("capture", ladder.AUTO), capture.source
    return bool(capture.scanned_directories) or ladder.fell_back(asked, used)
