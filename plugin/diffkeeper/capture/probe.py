"""Chooses the source of a volume by trying it, never by version, and says why."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffkeeper.capture.ebpf import EbpfSource
from diffkeeper.capture.inotify import InotifySource
from diffkeeper.capture.program import Program
from diffkeeper.capture.scan import ScanSource
from diffkeeper.errors import UnsupportedError

if TYPE_CHECKING:
    from diffkeeper.capture.source import Source


@dataclass(frozen=True, slots=True)
class Place:
    """Where a volume lies: device (as in st_dev), type of the file system; bits of its chunks."""

    device: int
    fs_type: str
    chunk_bits: int


@dataclass(frozen=True, slots=True)
class Choice:
    """A started source and the reason for it, as shown in Status and in the log."""

    source: Source
    reason: str


class Sources:
    """The sources that this machine has. Methods may be called from any thread."""

    def __init__(self, headers: str = "") -> None:
        """`headers`: kernel headers to compile with, otherwise looked for."""
        self._headers = headers
        self._lock = threading.Lock()
        self._program: Program | None = None
        self._why_not = ""

    @classmethod
    def of(cls, program: Program) -> Sources:
        """With programs that are loaded, and that the caller unloads."""
        made = cls()
        made._program = program
        return made

    def load(self) -> str:
        """Load the eBPF programs unless that was tried; returns why there are none, or nothing."""
        with self._lock:
            if self._program is None and not self._why_not:
                try:
                    self._program = Program.load(self._headers)
                except UnsupportedError as error:
                    self._why_not = str(error)
            return self._why_not

    def close(self) -> None:
        """Unload the programs; after every source was stopped."""
        with self._lock:
            if self._program is not None:
                self._program.close()
            self._program, self._why_not = None, "the daemon stops"

    def choose(self, wanted: str, place: Place) -> Choice:
        """Start a source: `auto` (inotify), `ebpf`, `inotify` or `scan`.

        A source that does not work falls back to the next coarser one, down to scan, which always
        works; the reason says so.
        """
        if wanted == "scan":
            return Choice(ScanSource(), "asked for by the volume's option capture=scan")
        asked = f"asked for by the volume's option capture={wanted}"
        why_not = ""
        if wanted == "ebpf":
            try:
                source = self._ebpf(place)
                wider = self._program.wider if self._program is not None else ""
                return Choice(source, "; ".join(filter(None, [asked, wider])))
            except UnsupportedError as error:
                why_not = f"no eBPF: {error}"
        elif wanted == "auto":
            why_not = "the finest source of this release; inotify works on this kernel"
        names = InotifySource()
        try:
            names.start()
        except UnsupportedError as error:
            return Choice(ScanSource(), "; ".join(filter(None, [why_not, str(error)])))
        return Choice(names, why_not or asked)

    def _ebpf(self, place: Place) -> Source:
        why_not = self.load()
        if why_not or self._program is None:
            raise UnsupportedError(why_not)
        unsupported = self._program.file_systems.get(
            place.fs_type, f"{place.fs_type} tells no ranges of what is written"
        )
        if unsupported:
            raise UnsupportedError(unsupported)
        source = EbpfSource(self._program, place.device, place.chunk_bits)
        source.start()
        return source
