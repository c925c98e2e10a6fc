"""The source that watches one live directory, with its mappings; what a broken one is replaced by.

A source that breaks is replaced by the next coarser one, for good, and never silently: the reason
is in `Status`, the log and a metric.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from diffkeeper import clock, counters
from diffkeeper.capture import probe
from diffkeeper.capture.scan import ScanSource
from diffkeeper.engine.direct import DirectIo
from diffkeeper.engine.mapped import Mapped
from diffkeeper.fsio import mounts

if TYPE_CHECKING:
    from diffkeeper.capture.features import Feature
    from diffkeeper.capture.source import Dirty, Source
    from diffkeeper.engine.tools import Policy, Tools

log = logging.getLogger(__name__)


class Watched:
    """`source` is the one in use, `reason` why it is that one; `place` is (device, its root).

    `number`: the device as in st_dev.
    """

    def __init__(self, tools: Tools, volume: str, live: str, root_fd: int, policy: Policy) -> None:
        self._sources = tools.sources
        self._volume = volume
        self._policy = policy
        device, root, self._fs_type = mounts.locate(live)
        self.place = device, root
        self.number = number = os.fstat(root_fd).st_dev
        place = probe.Place(number, self._fs_type, policy.chunk_bits, os.path.dirname(live))
        choice = self._sources.choose(policy.source, place)
        self.source: Source = choice.source
        self.reason = choice.reason
        self.mapped = Mapped(self.source.window_bits)
        self.direct = DirectIo(lambda: self.source.under_way())
        self._gave_up = ""
        self._drained_ns = 0  # when the last drain began
        self.source.escalate("the volume was not watched before")

    @property
    def features(self) -> tuple[Feature, ...]:
        """What of eBPF matters to the volume; nothing where it is not considered."""
        considered = probe.considers_ebpf(self._policy.source)
        return self._sources.matter(self._fs_type) if considered else ()

    def drain(self, *, frozen: bool = False) -> Dirty:
        """Take the source's hints; what they tell of mappings is noted."""
        before, self._drained_ns = self._drained_ns, clock.now_ns()
        dirty = self.source.drain(frozen=frozen)
        told = [number for number, changed in dirty.files.items() if changed.mapped]
        self.mapped.tell(told, before)
        if dirty.everything:
            self.mapped.forget()
        return dirty

    def give_up(self, reason: str) -> None:
        """The source did, where there is no time to replace it: `replace` is for that."""
        self._gave_up = reason

    def doubted(self) -> tuple[str, str]:
        """(why the source is broken, why it gave up), each empty if it is not so."""
        return self.source.broken(), self._gave_up

    def replace(self, reason: str) -> None:
        """The next coarser source from now on, for this reason."""
        self._gave_up = ""
        self.source.stop()
        if self.source.by_range:
            place = probe.Place(0, self._fs_type, self._policy.chunk_bits)
            choice = self._sources.choose("inotify", place)
            self.source = choice.source
            self.reason = f"{reason}; {choice.reason}"
        else:
            self.source, self.reason = ScanSource(), reason
        counters.add("capture_fallbacks_total", volume=self._volume, source=self.source.name)
        log.warning(
            "fell_back",
            extra={"volume": self._volume, "source": self.source.name, "reason": self.reason},
        )
        self.mapped.forget()
