"""Whether anything moved in a frozen volume whose source gives no hints.

A comparison looks at one name after the other, and somebody who was not frozen may have written to
two of them meanwhile: to the first after its look, to the second before it. So all are looked at
once more. Where every name is what it was, all of them were so at the moment between the two looks.
Timestamps are compared, which is quick; content that is too young for them to prove anything is
read again by the capture itself.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from diffkeeper.fsio import inode

if TYPE_CHECKING:
    from collections.abc import Callable


class NameSums:
    """What the names of each directory were seen to be, as one number for a directory.

    Bounded by the number of directories.
    """

    def __init__(self) -> None:
        self._of: dict[int, int] = {}
        self.directories: list[int] = []

    def __contains__(self, number: int) -> bool:
        """Whether a directory was listed."""
        return number in self._of

    def clear(self) -> None:
        """Nothing was seen."""
        self._of.clear()
        self.directories.clear()

    def begin(self, number: int, status: os.stat_result) -> None:
        """A directory (its inode number) is about to be listed; `status` is its own."""
        if number not in self._of:
            self.directories.append(number)
        self._of[number] = _told(b"", status)

    def add(self, number: int, name: bytes, status: os.stat_result | None) -> None:
        """A name in that directory; one without a status could not be looked at."""
        self._of[number] ^= _told(name, status)

    def same(
        self,
        number: int,
        fd: int,
        check: Callable[[], None],
        skip: Callable[[bytes], bool] | None = None,
    ) -> bool:
        """Whether the directory, opened as `fd`, is what it was. `check` may raise to end it.

        skip: tells which names do not count.
        """
        found = _told(b"", os.fstat(fd))
        for name, status in inode.statuses(fd, None, skip):
            check()
            found ^= _told(name, status)
        return found == self._of[number]


def _told(name: bytes, status: os.stat_result | None) -> int:
    if status is None:
        return hash((name, "unknown"))
    times = status.st_mtime_ns, status.st_ctime_ns
    return hash((name, status.st_ino, status.st_mode, status.st_size, status.st_nlink, *times))
