"""Linux AIO: writes that are submitted, and end when they like.

Source: linux/aio_abi.h. The kernel may read a buffer until the write has ended, so each is kept
until then.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING

from tests.support.churn import syscalls
from tests.support.churn.actor import PAGE, Actor, address, kind

if TYPE_CHECKING:
    import mmap

_SETUP, _GETEVENTS, _SUBMIT = 206, 208, 209
_PWRITE = 1
UNDER_WAY_MAX = 8
# aio_data, aio_key, aio_rw_flags, opcode, reqprio, fildes, buf, nbytes, offset; reserved, flags.
_IOCB = struct.Struct("=QIiHhIQQq QII")
_EVENT_BYTES = 32


class Aio:
    """One context, used by one thread."""

    def __init__(self) -> None:
        context = ctypes.c_ulong()
        syscalls.syscall(_SETUP, 2 * UNDER_WAY_MAX, ctypes.byref(context))
        self._context = context.value
        self._next = 0
        self._under_way: dict[int, tuple[mmap.mmap, ctypes.Array[ctypes.c_char]]] = {}

    def submit(self, fd: int, memory: mmap.mmap, at: int) -> None:
        """Begin one write; raises OSError when the kernel refuses it at once."""
        self._next += 1
        fields = (self._next, 0, 0, _PWRITE, 0, fd, address(memory), len(memory), at, 0, 0, 0)
        block = ctypes.create_string_buffer(_IOCB.pack(*fields), _IOCB.size)
        blocks = (ctypes.c_void_p * 1)(ctypes.addressof(block))
        self._under_way[self._next] = memory, block
        try:
            syscalls.syscall(_SUBMIT, self._context, 1, blocks)
        except OSError:
            del self._under_way[self._next]
            raise

    def reap(self, least: int) -> None:
        """Take what has ended, and wait for at least so many of those under way."""
        least = min(least, len(self._under_way))
        room = ctypes.create_string_buffer(_EVENT_BYTES * 2 * UNDER_WAY_MAX)
        arguments = (self._context, least, 2 * UNDER_WAY_MAX, room, 0)
        count = syscalls.syscall(_GETEVENTS, *arguments)
        for position in range(count):
            (number,) = struct.unpack_from("=Q", room.raw, position * _EVENT_BYTES)
            del self._under_way[number]

    @property
    def full(self) -> bool:
        """Whether something has to end first."""
        return len(self._under_way) >= UNDER_WAY_MAX


def _submit(actor: Actor, flags: int) -> None:
    """Some writes at once; the file may be closed, and this thread go on, while they run."""
    aio = actor.aio = actor.aio or Aio()
    if aio.full:
        aio.reap(UNDER_WAY_MAX // 2)
    path = actor.name()
    with actor.opened(path, os.O_RDWR | os.O_CREAT | flags) as fd:
        for _ in range(actor.random.randrange(1, 4)):
            memory = actor.buffer(PAGE * actor.random.choice((1, 1, 8, 64)))
            aio.submit(fd, memory, actor.position(path) // PAGE * PAGE)
    aio.reap(actor.random.choice((0, 1, UNDER_WAY_MAX)))


@kind(2)
def aio_buffered(actor: Actor) -> None:
    _submit(actor, 0)


@kind(2)
def aio_direct(actor: Actor) -> None:
    _submit(actor, os.O_DIRECT)
