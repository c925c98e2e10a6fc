"""Detects whether anything is written through some mounts: fanotify marks on mounts,
fanotify(7).
"""

from __future__ import annotations

import os
import select
import weakref

from diffkeeper.fsio import linux

_MASK = linux.FAN_MODIFY | linux.FAN_CLOSE_WRITE


class Writes:
    """Detects the first write to any file through one of its mounts, by any process.

    Changes of names, such as a removal, and stores through a mapping are not detected. Keeps
    neither mounts nor files busy. Raises OSError where no group is left, or the kernel does not
    support this.
    """

    def __init__(self) -> None:
        self._fd = linux.fanotify_init()
        self._poller = select.poll()
        self._poller.register(self._fd, select.POLLIN)
        self.close = weakref.finalize(self, os.close, self._fd)

    def add(self, path: str, mount: int) -> None:
        """Add the mount with this id, which is at this path. OSError, also if another mount is
        there.
        """
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if linux.mount_id(fd) != mount:
                raise OSError(f"{path} is covered by another mount")
            linux.fanotify_mark_mount(self._fd, f"/proc/self/fd/{fd}", _MASK)
        finally:
            os.close(fd)

    def any(self) -> bool:
        """Whether anything was written; never blocks."""
        return bool(self._poller.poll(0))
