"""inotify on the freezers' control files: shows that somebody else wrote one during our freeze."""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass

IN_MODIFY = 0x2
IN_OPEN = 0x20
_EVENT = struct.Struct("iIII")
_READ_BYTES = 65536
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Event:
    """What happened (`mask`, inotify's bits) to the watch `watch`, in the order of the kernel."""

    watch: int
    mask: int


class Watch:
    """An inotify instance; raises OSError when the kernel has none left for us."""

    def __init__(self) -> None:
        self._descriptor = _checked(_LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def add(self, path: str) -> int:
        """Watch `path` for opening and writing; the number that its events carry."""
        name = os.fsencode(path)
        return _checked(_LIBC.inotify_add_watch(self._descriptor, name, IN_MODIFY | IN_OPEN))

    def remove(self, watch: int) -> None:
        """Forget a watch; the kernel may have done so before us, with the file."""
        _LIBC.inotify_rm_watch(self._descriptor, watch)

    def drain(self) -> list[Event]:
        """All events since the last call; never blocks."""
        events: list[Event] = []
        while data := self._read():
            offset = 0
            while offset < len(data):
                watch, mask, _, length = _EVENT.unpack_from(data, offset)
                events.append(Event(watch, mask))
                offset += _EVENT.size + length
        return events

    def close(self) -> None:
        """Release the instance and all its watches."""
        os.close(self._descriptor)

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return b""


def written_after_open(events: list[Event]) -> set[int]:
    """Watches whose file was opened and then written, both within `events`.

    We never open a control file during a freeze, so this is somebody else; and because the opening
    lies within the events, the write comes after all that we did before them.
    """
    opened: set[int] = set()
    written: set[int] = set()
    for event in events:
        if event.mask & IN_OPEN:
            opened.add(event.watch)
        elif event.mask & IN_MODIFY and event.watch in opened:
            written.add(event.watch)
    return written


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)
