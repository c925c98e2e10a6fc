"""One inotify instance: its watches, and its events as the kernel queued them; and the kernel's
limits, of which there are two of each kind: per user, and per user namespace.
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

    For an overflow of the queue the watch is -1.
    """

    watch: int
    mask: int
    name: bytes


class Instance:
    """Raises OSError (EMFILE) when no instance is left. Not thread-safe."""

    def __init__(self) -> None:
        self.descriptor = linux.inotify_init()

    def add(self, descriptor: int, mask: int) -> int:
        """Watch an open descriptor; returns the watch number. OSError ENOSPC: none left.

        What has a watch already keeps its number, and gets the new mask.
        """
        return linux.inotify_add_watch(self.descriptor, descriptor, mask)

    def add_path(self, path: str, mask: int) -> int:
        """Watch a path; returns the watch number. OSError ENOSPC: none left."""
        return linux.inotify_add_watch_path(self.descriptor, os.fsencode(path), mask)

    def remove(self, watch: int) -> None:
        """Remove a watch; the kernel may already have done so. It queues IN_IGNORED."""
        linux.inotify_rm_watch(self.descriptor, watch)

    def events(self) -> Iterator[InotifyEvent]:
        """The events that were queued when the call began, whatever arrives meanwhile; never
        blocks.

        An event that repeats the one before it is returned once.
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
    """A limit of the kernel by its name; None for one that it does not have."""
    try:
        with open(f"{proc_root}/sys/{name.replace('.', '/')}", encoding="ascii") as file:
            return int(file.read())
    except FileNotFoundError:
        return None


def lowest(names: Sequence[str]) -> int | None:
    """The lowest of these limits, which applies."""
    return min((found for name in names if (found := limit(name)) is not None), default=None)


def binding(names: Sequence[str]) -> str:
    """The names of the limits to raise: on most machines both have the same value."""
    least = lowest(names)
    return " and ".join(name for name in names if limit(name) == least)
