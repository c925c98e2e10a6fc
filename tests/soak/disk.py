"""A disk of its own for the plugin's state, which can be filled and emptied again."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

SIZE: Final = 24 << 30  # sparse: it takes what is written
LEFT_BYTES: Final = 1 << 20


class Disk:
    """An ext4 file system in a file."""

    def __init__(self, image: Path, mount: Path) -> None:
        """Make it and mount it on `mount`, which is created; unmounted with what is below it."""
        self._ballast = mount / "ballast"
        with open(image, "wb") as file:
            file.truncate(SIZE)
        mount.mkdir()
        # A first writing of the inode tables in the background would be in the figures.
        options = "lazy_itable_init=0,lazy_journal_init=0"
        _run("mkfs.ext4", "-q", "-m", "0", "-E", options, str(image))
        _run("mount", "-o", "loop", str(image), str(mount))

    def fill(self) -> None:
        """Take all room but a rest, without writing to the blocks."""
        with open(self._ballast, "wb") as file:
            offset = 0
            while (room := self._room()) > LEFT_BYTES:
                # Others write at the same time: a part at a time, until there is no more.
                part = max(room // 2, LEFT_BYTES // 2)
                os.posix_fallocate(file.fileno(), offset, part)
                offset += part

    def empty(self) -> None:
        """Give the room back."""
        self._ballast.unlink()

    def _room(self) -> int:
        found = os.statvfs(self._ballast)
        return found.f_bavail * found.f_frsize


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=300)
