"""Chooses the source of a volume by trying it, never by version, and says why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffkeeper.capture.inotify import InotifySource
from diffkeeper.capture.scan import ScanSource
from diffkeeper.errors import UnsupportedError

if TYPE_CHECKING:
    from diffkeeper.capture.source import Source


@dataclass(frozen=True, slots=True)
class Choice:
    """A started source and the reason for it, as shown in Status and in the log."""

    source: Source
    reason: str


def choose(wanted: str) -> Choice:
    """Start a source: `auto` (the best that works), `inotify` or `scan`.

    A wanted source that does not work falls back to scan, which always does; the reason says so.
    """
    if wanted == "scan":
        return Choice(ScanSource(), "asked for by the volume's option capture=scan")
    source = InotifySource()
    try:
        source.start()
    except UnsupportedError as error:
        return Choice(ScanSource(), str(error))
    if wanted == "inotify":
        return Choice(source, "asked for by the volume's option capture=inotify")
    return Choice(source, "the finest source of this release; inotify works on this kernel")
