"""Files as a process sees them, looked at only where that waits for no other process.

What a container has mounted itself (FUSE, NFS, …) may answer slowly, or never: nobody who holds a
lock, or has frozen others, may ask it.
"""

from __future__ import annotations

import errno
import os

from diffkeeper.fsio import linux, mountinfo


class ProcessRoot:
    """The root directory of a process, and what is mounted below it."""

    def __init__(self, directory: str) -> None:
        """directory: of the process, or of one of its threads, in /proc. Raises OSError when it is
        gone.
        """
        self._root = f"{directory}/root"
        with open(f"{directory}/mountinfo", "rb") as file:
            # Later ones cover earlier ones.
            self._types = {mount.point: mount.fs_type for mount in mountinfo.parse(file.read())}

    def open(self, path: str) -> int:
        """An O_PATH descriptor of an absolute path; a symbolic link at its end is not followed.

        Raises OSError, EREMOTE where the path leads over a file system that may need another
        process.
        """
        point, over = os.path.normpath(path), {self._types.get("/", "")}
        while point.strip("/"):
            over.add(self._types.get(point, "tmpfs"))
            point = os.path.dirname(point)
        if not over <= mountinfo.LOCAL:
            raise OSError(errno.EREMOTE, os.strerror(errno.EREMOTE), path)
        root = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return linux.open_in_root(root, path)
        finally:
            os.close(root)
