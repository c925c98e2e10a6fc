"""Whether anything moved in a frozen volume whose source gives no hints.

A comparison scans one name after the other, and somebody who was not frozen may have written to two
of them meanwhile: to the first after its scan, to the second before it. So all names are scanned a
second time. If every name is unchanged, all of them were in that state at the moment between the
two scans. Timestamps are compared, which is fast; content that is too young for them to prove
anything is read again by the capture itself.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from diffkeeper.fsio import inode

if TYPE_CHECKING:
    from collections.abc import Callable


class NameSums:
    """A checksum over the names of each directory and their lstat.

    Memory grows with the number of directories only.
    """

    def __init__(self) -> None:
        self._of: dict[int, int] = {}
        self.directories: list[int] = []

    def __contains__(self, number: int) -> bool:
        """Whether a directory was listed."""
        return number in self._of

    def clear(self) -> None:
        """Drop everything."""
        self._of.clear()
        self.directories.clear()

    def begin(self, number: int, status: os.stat_result) -> None:
        """Begin the listing of a directory (its inode number); `status` is its own lstat."""
        if number not in self._of:
            self.directories.append(number)
        self._of[number] = _fingerprint(b"", status)

    def add(self, number: int, name: bytes, status: os.stat_result | None) -> None:
        """Add a name of that directory; None where its lstat failed."""
        self._of[number] ^= _fingerprint(name, status)

    def same(
        self,
        number: int,
        fd: int,
        check: Callable[[], None],
        skip: Callable[[bytes], bool] | None = None,
    ) -> bool:
        """Whether the directory, opened as `fd`, is unchanged. `check` may raise to end this early.

        skip: predicate for names that do not count.
        """
        found = _fingerprint(b"", os.fstat(fd))
        for name, status in inode.statuses(fd, None, skip):
            check()
            found ^= _fingerprint(name, status)
        return found == self._of[number]


def _fingerprint(name: bytes, status: os.stat_result | None) -> int:
    if status is None:
        return hash((name, "unknown"))
    times = status.st_mtime_ns, status.st_ctime_ns
    return hash((name, status.st_ino, status.st_mode, status.st_size, status.st_nlink, *times))
