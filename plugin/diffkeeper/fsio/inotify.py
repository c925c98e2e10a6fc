"""One inotify instance: its watches, and its events as the kernel queued them; and the kernel's
limits, of which there are two for the same: of the user, and of the user namespace.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from typing import TYPE_CHECKING, Final, NamedTuple

from diffkeeper.fsio import linux
from diffkeeper.limits import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

INOTIFY_READ_BYTES = 1 * MIB

_EVENT = struct.Struct("=iIII")
_QUEUED = struct.Struct("=i")
WATCHES: Final = ("fs.inotify.max_user_watches", "user.max_inotify_watches")
INSTANCES: Final = ("fs.inotify.max_user_instances", "user.max_inotify_instances")
QUEUED: Final = "fs.inotify.max_queued_events"


class InotifyEvent(NamedTuple):
    """What happened (`mask`, inotify's bits) to the watch `watch`, or to `name` in it.

    Of an overflow of the queue the watch is -1.
    """

    watch: int
    mask: int
    name: bytes


class Instance:
    """Raises OSError (EMFILE) when the kernel has none left for us. Its users take turns."""

    def __init__(self) -> None:
        self.descriptor = linux.inotify_init()

    def add(self, descriptor: int, mask: int) -> int:
        """Watch what an open descriptor names; the number of the watch. OSError ENOSPC: none left.

        What has a watch keeps its number, and gets the new mask.
        """
        return linux.inotify_add_watch(self.descriptor, descriptor, mask)

    def add_path(self, path: str, mask: int) -> int:
        """The same for a path."""
        return linux.inotify_add_watch_path(self.descriptor, os.fsencode(path), mask)

    def remove(self, watch: int) -> None:
        """Forget a watch; the kernel may have done so before us. It queues IN_IGNORED."""
        linux.inotify_rm_watch(self.descriptor, watch)

    def events(self) -> Iterator[InotifyEvent]:
        """What was queued when the call began, however fast more comes; never blocks.

        An event that repeats the one before it is given once.
        """
        left = _QUEUED.unpack(fcntl.ioctl(self.descriptor, termios.FIONREAD, bytes(4)))[0]
        while left > 0:
            buffer = self._read()
            if not buffer:
                return
            left -= len(buffer)
            yield from _decoded(buffer)

    def _read(self) -> bytes:
        try:
            return os.read(self.descriptor, INOTIFY_READ_BYTES)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Release the instance and all its watches."""
        os.close(self.descriptor)


def _decoded(buffer: bytes) -> Iterator[InotifyEvent]:
    offset, last = 0, b""
    while offset < len(buffer):
        watch, mask, _, length = _EVENT.unpack_from(buffer, offset)
        end = offset + _EVENT.size + length
        event = buffer[offset:end]
        if event != last:
            last = event
            yield InotifyEvent(watch, mask, event[_EVENT.size :].rstrip(b"\0"))
        offset = end


def limit(name: str, proc_root: str = "/proc") -> int | None:
    """A limit of the kernel's by its name; None for one that it lacks, which binds nothing."""
    try:
        with open(f"{proc_root}/sys/{name.replace('.', '/')}", encoding="ascii") as file:
            return int(file.read())
    except FileNotFoundError:
        return None


def lowest(names: Sequence[str]) -> int | None:
    """The one of these limits that binds."""
    return min((found for name in names if (found := limit(name)) is not None), default=None)


def binding(names: Sequence[str]) -> str:
    """The names of those to raise for more: most machines have the same number for both."""
    least = lowest(names)
    return " and ".join(name for name in names if limit(name) == least)
