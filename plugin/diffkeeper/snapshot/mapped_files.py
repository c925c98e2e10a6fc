"""Files with shared writable mappings, where the source sees the first store to a page.

A store to a page that is already dirty leaves no trace. So what was hinted of such a file is
written out before it is read: then the next store to it is hinted again. Inside a freeze nothing
may wait for a disk; what was read there is written out, and read once more, in the next capture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.fsio import linux
from diffkeeper.sources.base import Changed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from diffkeeper.sources.base import Ranges


class MappedFiles:
    """The mapped files of one volume; not thread safe."""

    def __init__(self, window_bits: int) -> None:
        self.window_bits = window_bits
        self._later: dict[int, Changed] = {}
        # Files of which every dirty page was hinted, or written out, since they were mapped: armed.
        self.armed: set[int] = set()
        # Files that were reported as mapped in this capture and in the one before, each with a
        # moment at which it was not mapped yet. The report comes before the store, which may come
        # after the look that the report has caused.
        self._reported: dict[int, int] = {}
        self._reported_before: dict[int, int] = {}
        self.frozen = False

    def mark_mapped(self, numbers: Iterable[int], since_ns: int) -> None:
        """Record files that were mapped after `since_ns`, maybe by a process that has ended."""
        for number in numbers:
            self._reported.setdefault(number, self._reported_before.get(number, since_ns))

    def mapped_since(self, number: int) -> int | None:
        """A moment (clock, ns) since when this file may have been stored to; None if never."""
        return self._reported.get(number, self._reported_before.get(number))

    def read_whole(self, number: int, fd: int, *, mapped: bool) -> None:
        """Prepare for reading a whole file; `mapped`: it is, or was, mapped."""
        if not mapped and number not in self.armed:
            return
        if self.frozen:
            self.armed.discard(number)
            self._later[number] = Changed(whole=True, mapped=True)
        else:
            linux.write_out(fd, 0, 0)
            self.armed.add(number)

    def read_windows(self, number: int, fd: int, windows: set[int]) -> None:
        """Prepare for reading these windows of an armed file."""
        if self.frozen:
            self._later.setdefault(number, Changed()).windows |= windows
            return
        for window in windows:
            linux.write_out(fd, window << self.window_bits, 1 << self.window_bits)

    def give_back(self, source: Ranges) -> None:
        """End of the capture: hint to the next one what was read inside the freeze."""
        for number, changed in self._later.items():
            source.give_back_file(number, changed)
        self._later.clear()
        self._reported_before, self._reported = self._reported, {}

    def forget(self) -> None:
        """Drop everything: hints were lost, or are of no more use."""
        self.armed.clear()
        self._later.clear()
