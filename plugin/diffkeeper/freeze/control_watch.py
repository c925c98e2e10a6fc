"""inotify on the freezers' control files: detects that somebody else wrote one during our freeze.

It has an instance of its own, so that nobody waits for the events of volumes in a freeze.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.fsio import linux
from diffkeeper.fsio.inotify import Instance

if TYPE_CHECKING:
    from diffkeeper.fsio.inotify import InotifyEvent


class Watch:
    """Watches control files; raises OSError when the kernel has no instance left for us."""

    def __init__(self) -> None:
        self._instance = Instance()

    def add(self, path: str) -> int:
        """Watch `path` for opening and writing; returns the watch number in its events."""
        return self._instance.add_path(path, linux.IN_MODIFY | linux.IN_OPEN)

    def remove(self, watch: int) -> None:
        """Remove a watch; the kernel may already have done so, with the file."""
        self._instance.remove(watch)

    def drain(self) -> list[InotifyEvent]:
        """All events since the last call; never blocks."""
        return list(self._instance.events())

    def close(self) -> None:
        """Release the instance and all its watches."""
        self._instance.close()


def written_after_open(events: list[InotifyEvent]) -> set[int]:
    """Watches whose file was opened and then written, both within `events`.

    We never open a control file during a freeze, so this was somebody else; and because the opening
    is within the events, the write came after all that we did before them.
    """
    opened: set[int] = set()
    written: set[int] = set()
    for event in events:
        if event.mask & linux.IN_OPEN:
            opened.add(event.watch)
        elif event.mask & linux.IN_MODIFY and event.watch in opened:
            written.add(event.watch)
    return written
