"""The source without hints: every drain asks for a comparison of the whole volume.

It works wherever files have timestamps, costs an lstat for each file and capture, and is the last
resort.
"""

from __future__ import annotations

from diffkeeper.sources.base import Dirty, NamesOnly


class ScanSource(NamesOnly):
    """Every drain returns the whole volume."""

    name = "scan"
    complete = hinting = False
    unwatched = 0
    why_unwatched = ""

    def start(self) -> None:
        """Nothing to do."""

    def stop(self) -> None:
        """Nothing to release."""

    def watch(self, inode: int, descriptor: int) -> bool:
        """Every capture lists every directory anyway."""
        return False

    def unwatch(self, inode: int) -> None:
        """There are no watches."""

    def pending(self) -> bool:
        """Always: only a comparison can find changes."""
        return True

    def drain(self, *, frozen: bool = False) -> Dirty:
        """The whole volume."""
        return Dirty(everything=True, cause="scan")

    def give_back(self, inode: int, names: set[bytes]) -> None:
        """Every drain is the whole volume already."""

    def escalate(self, cause: str) -> None:
        """Every drain is the whole volume already."""
