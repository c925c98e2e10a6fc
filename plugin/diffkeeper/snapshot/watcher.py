"""The source that watches one live directory, and its replacement when it fails.

A source that fails is replaced by the next coarser one, for good and never silently: the reason is
in `Status`, the log and a metric. Where there are not enough watches, the unwatched part of the
volume is compared at each capture, and that is reported, too.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from diffkeeper import clock, counters
from diffkeeper.errors import UnsupportedError
from diffkeeper.fsio import mountinfo
from diffkeeper.snapshot.direct_io import DirectIo
from diffkeeper.snapshot.mapped_files import MappedFiles
from diffkeeper.sources import ladder

if TYPE_CHECKING:
    from diffkeeper.snapshot.context import CaptureContext
    from diffkeeper.snapshot.policy import CapturePolicy
    from diffkeeper.sources.base import Dirty, Source
    from diffkeeper.sources.ebpf.features import Feature

log = logging.getLogger(__name__)


class Watcher:
    """The source of one live directory.

    source: the one in use; place: (device, path inside it), as in mountinfo; number: the device as
    in st_dev; mapped: files with shared writable mappings; direct: direct I/O in flight.
    """

    def __init__(
        self, context: CaptureContext, volume: str, live: str, root_fd: int, policy: CapturePolicy
    ) -> None:
        self._sources = context.sources
        self._volume = volume
        self._policy = policy
        device, root, self._fs_type = mountinfo.locate(live)
        self.place = device, root
        self.number = number = os.fstat(root_fd).st_dev
        self._spot = ladder.VolumePlace(
            number, self._fs_type, policy.chunk_bits, os.path.dirname(live)
        )
        choice = self._sources.choose(policy.source, self._spot)
        self.source: Source = choice.source
        self._why = choice.reason
        self._partly = False  # whether the log says that a part is not watched
        self.mapped = MappedFiles(self.source.window_bits)
        self.direct = DirectIo(lambda: self.source.under_way())
        self._gave_up = ""
        self._drained_ns = 0  # begin of the last drain
        self.source.escalate("the volume was not watched before")

    @property
    def reason(self) -> str:
        """Why this source is in use, and why it does not watch all of the volume."""
        if not (short := self.source.why_unwatched):
            return self._why
        return f"{self._why}; directories without a watch are scanned at each capture: {short}"

    @property
    def features(self) -> tuple[Feature, ...]:
        """Features of eBPF that matter to the volume; none where eBPF is not considered."""
        considered = ladder.considers_ebpf(self._policy.source)
        return self._sources.matter(self._fs_type) if considered else ()

    def drain(self, *, frozen: bool = False) -> Dirty:
        """Take the source's hints; those about mappings are recorded.

        Raises UnsupportedError when the source has failed; then call `replace`.
        """
        before, self._drained_ns = self._drained_ns, clock.now_ns()
        try:
            dirty = self.source.drain(frozen=frozen)
            if not frozen:
                self._tell_partly()
        except UnsupportedError as error:
            self.give_up(str(error))
            raise
        mapped = [number for number, changed in dirty.files.items() if changed.mapped]
        self.mapped.mark_mapped(mapped, before)
        if dirty.everything:
            self.mapped.forget()
        return dirty

    def _tell_partly(self) -> None:
        """Log that a part is not watched any more, or is again."""
        partly = bool(self.source.unwatched)
        if partly == self._partly:
            return
        self._partly = partly
        fields = {"volume": self._volume, "source": self.source.name, "reason": self.reason}
        if partly:
            number = self.source.unwatched
            log.warning("scanned_in_part", extra={**fields, "directories": number})
        else:
            log.info("watched_again", extra=fields)

    def give_up(self, reason: str) -> None:
        """Mark the source as failed where there is no time to replace it; `replace` does that
        later.
        """
        self._gave_up = reason

    def doubted(self) -> tuple[str, str]:
        """(why the source is broken, why it failed), each empty if it did not."""
        return self.source.broken(), self._gave_up

    def refuse_missed(self) -> None:
        """Raises UnsupportedError when hints were lost since the last drain."""
        if self.source.missed():
            raise UnsupportedError("hints were lost while the capture was under way")

    def replace(self, reason: str) -> None:
        """Use the next coarser source from now on, for this reason."""
        self._gave_up = ""
        self.source.stop()
        place = ladder.VolumePlace(0, self._fs_type, self._policy.chunk_bits)
        choice = self._sources.choose(ladder.replacement(), place)
        self.source, self._why = choice.source, f"{reason}; {choice.reason}"
        counters.add("capture_fallbacks_total", volume=self._volume, source=self.source.name)
        log.warning(
            "fell_back",
            extra={"volume": self._volume, "source": self.source.name, "reason": self.reason},
        )
        self.mapped.forget()
