"""io_uring by bare system calls: writes, fallocate and truncation that end when they like.

Source: linux/io_uring.h. A ring is used by one thread, one submission at a time, so that its
indices need no more ordering than the system call gives.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct

from tests.support.churn import syscalls
from tests.support.churn.actor import PAGE, Actor, address, kind

_SETUP, _ENTER = 425, 426
_GETEVENTS = 1
_FALLOCATE, _WRITE, _TRUNCATE = 17, 23, 55
_ASYNC = 1 << 4  # not by the submitting thread, but by one of the kernel's own
_SQES = 0x10000000
UNDER_WAY_MAX = 8
_PARAMETERS = struct.Struct("=7I3I 8IQ 8IQ")
# opcode, flags, ioprio, fd, off, addr, len, rw_flags, user_data; the rest stays 0.
_SQE = struct.Struct("=BBHiQQIIQ 24x")
_CQE = struct.Struct("=QiI")


class Ring:
    """One instance; what a write needs is kept until its completion was seen."""

    def __init__(self) -> None:
        room = ctypes.create_string_buffer(_PARAMETERS.size)
        self._fd = syscalls.syscall(_SETUP, 2 * UNDER_WAY_MAX, room)
        found = _PARAMETERS.unpack(room.raw)
        entries, completions = found[0], found[1]
        self._sq, self._cq = found[10:18], found[19:27]
        size = max(self._sq[6] + 4 * entries, self._cq[5] + _CQE.size * completions)
        self._rings = mmap.mmap(self._fd, size)
        self._sqes = mmap.mmap(self._fd, _SQE.size * entries, offset=_SQES)
        self._next = 0
        self._under_way: dict[int, mmap.mmap | None] = {}

    def _get(self, at: int) -> int:
        return int(struct.unpack_from("=I", self._rings, at)[0])

    def submit(
        self, operation: int, flags: int, fd: int, off: int, memory: mmap.mmap | None, rest: int
    ) -> None:
        """Begin one operation; `rest`: what goes into `len` where there is no memory."""
        tail, mask = self._get(self._sq[1]), self._get(self._sq[2])
        index = tail & mask
        self._next += 1
        where, length = (address(memory), len(memory)) if memory is not None else (rest, 0)
        entry = _SQE.pack(operation, flags, 0, fd, off, where, length, 0, self._next)
        self._sqes[index * _SQE.size : (index + 1) * _SQE.size] = entry
        struct.pack_into("=I", self._rings, self._sq[6] + 4 * index, index)
        struct.pack_into("=I", self._rings, self._sq[1], (tail + 1) & 0xFFFFFFFF)
        self._under_way[self._next] = memory
        self._enter(1, 0)

    def _enter(self, submitted: int, awaited: int) -> None:
        """Again when a freeze interrupted it before it began."""
        while True:
            try:
                syscalls.syscall(_ENTER, self._fd, submitted, awaited, _GETEVENTS, 0, 0)
                return
            except InterruptedError:
                submitted = self._get(self._sq[1]) - self._get(self._sq[0])

    def reap(self, least: int) -> None:
        """Take what has ended, and wait until at most so many are under way as `least` leaves."""
        self._enter(0, min(least, len(self._under_way)))
        head, tail, mask = (self._get(self._cq[i]) for i in (0, 1, 2))
        while head != tail:
            at = self._cq[5] + _CQE.size * (head & mask)
            number = _CQE.unpack_from(self._rings, at)[0]
            del self._under_way[number]
            head = (head + 1) & 0xFFFFFFFF
        struct.pack_into("=I", self._rings, self._cq[0], head)

    @property
    def full(self) -> bool:
        """Whether something has to end first."""
        return len(self._under_way) >= UNDER_WAY_MAX


def _ring(actor: Actor) -> Ring:
    ring = actor.ring = actor.ring or Ring()
    while ring.full:
        ring.reap(UNDER_WAY_MAX // 2)
    return ring


def _write(actor: Actor, flags: int) -> None:
    ring, path = _ring(actor), actor.name()
    with actor.opened(path, os.O_RDWR | os.O_CREAT | flags) as fd:
        memory = actor.buffer(PAGE * actor.random.choice((1, 1, 8, 64)))
        at = actor.position(path)
        at = at // PAGE * PAGE if flags else at
        ring.submit(_WRITE, actor.random.choice((0, _ASYNC)), fd, at, memory, 0)
    ring.reap(actor.random.choice((0, 1, UNDER_WAY_MAX)))


@kind(3)
def uring_write(actor: Actor) -> None:
    _write(actor, 0)


@kind(2)
def uring_direct(actor: Actor) -> None:
    _write(actor, os.O_DIRECT)


@kind(2)
def uring_space(actor: Actor) -> None:
    """fallocate(2) and ftruncate(2), by the kernel's own threads."""
    ring, path = _ring(actor), actor.name()
    with actor.opened(path) as fd:
        if actor.random.random() < 0.5:
            ring.submit(_TRUNCATE, _ASYNC, fd, actor.position(path), None, 0)
        else:
            start = actor.position(path)
            ring.submit(_FALLOCATE, _ASYNC, fd, start, None, 1 + actor.random.randrange(100_000))
    ring.reap(actor.random.choice((0, UNDER_WAY_MAX)))
