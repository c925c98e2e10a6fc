"""Stores through shared mappings, which no system call tells of.

Files that everyone changes may be cut at any moment, and an ordinary store past the end of a file
ends the process. So there the kernel is asked to store, as the target of a read: the page faults
are the same, and past the end it fails. Ordinary stores go to the thread's own files.
"""

from __future__ import annotations

import os
import time

from tests.support.churn import syscalls
from tests.support.churn.actor import PAGE, SAFE, SMALL_BYTES, WINDOW, Actor, Mapping, kind
from tests.support.churn.syscalls import READ, WRITE

MAPS_MAX = 4
CHILDREN_MAX = 2
OWN_BYTES = 64 * PAGE


def _map(actor: Actor, fd: int, path: str, protection: int = READ | WRITE) -> Mapping:
    """Some pages, or a whole window, of a file that is made long enough."""
    at = actor.position(path) // PAGE * PAGE
    length = PAGE * actor.random.choice((1, 4, 64))
    if os.path.basename(path).startswith("b") and actor.random.random() < 0.5:
        at, length = at // WINDOW * WINDOW, WINDOW
    if os.fstat(fd).st_size <= at:
        os.ftruncate(fd, at + 1 + actor.random.randrange(length))
    start = syscalls.mmap(fd, length, protection, at)
    return Mapping(start, length, at, path, os.fstat(fd).st_ino)


def _store(actor: Actor, mapping: Mapping, count: int = 3) -> None:
    """Asks the kernel to store, here and there."""
    for _ in range(actor.random.randrange(1, count + 1)):
        offset = actor.random.randrange(mapping.length)
        length = min(actor.random.choice((1, 8, 5000)), mapping.length - offset)
        source = actor.random_source()
        syscalls.pread_into(source, mapping.start + offset, length, actor.random.randrange(WINDOW))


@kind(4)
def map_long(actor: Actor) -> None:
    """A mapping that stays, of a file that is closed at once."""
    path = actor.name()
    with actor.opened(path) as fd:
        actor.maps.append(_map(actor, fd, path))
    if len(actor.maps) > MAPS_MAX:
        actor.maps.pop(0).end()


@kind(8)
def map_store(actor: Actor) -> None:
    _store(actor, actor.mapped(actor.maps))


@kind(3)
def map_sync(actor: Actor) -> None:
    mapping = actor.mapped(actor.maps)
    flags = actor.random.choice((syscalls.MS_SYNC, syscalls.MS_ASYNC))
    syscalls.msync(mapping.start, mapping.length, flags)
    _store(actor, mapping)


@kind(4)
def map_brief(actor: Actor) -> None:
    """Gone before anyone can see it; the file is closed before or after."""
    path = actor.name()
    fd = os.open(path, os.O_RDWR | os.O_CREAT | SAFE, 0o644)
    actor.note_file(fd)
    first = actor.random.random() < 0.5
    try:
        mapping = _map(actor, fd, path)
    except OSError:
        os.close(fd)
        raise
    if first:
        os.close(fd)
    try:
        _store(actor, mapping)
    finally:
        mapping.end()
        if not first:
            os.close(fd)


@kind(5)
def map_beside(actor: Actor) -> None:
    """Written, then stored to beside in the same page or window, and unmapped; it stays open."""
    path = actor.name()
    fd = actor.keep(path)
    os.pwrite(fd, actor.data(), actor.position(path))
    if actor.random.random() < 0.5:
        time.sleep(actor.random.random() * 0.3)  # until a capture has read what was written
    at = actor.last // PAGE * PAGE
    if actor.random.random() < 0.5:
        at = max(0, at + PAGE * actor.random.randrange(-8, 8))
    mapping = Mapping(syscalls.mmap(fd, PAGE, READ | WRITE, at), PAGE, at, path)
    try:
        _store(actor, mapping)
    finally:
        mapping.end()


@kind(3)
def map_upgrade(actor: Actor) -> None:
    """Mapped to read, then made writable, and back."""
    path = actor.name()
    with actor.opened(path) as fd:
        mapping = _map(actor, fd, path, READ)
    try:
        syscalls.pwrite_from(actor.random_source(), mapping.start, 1, 0)
        syscalls.mprotect(mapping.start, mapping.length, READ | WRITE)
        _store(actor, mapping)
        syscalls.mprotect(mapping.start, mapping.length, READ)
    finally:
        mapping.end()


@kind(2)
def map_unlinked(actor: Actor) -> None:
    """Mapped, and its name is gone; another one may be there, or come back."""
    path = actor.small()
    with actor.opened(path) as fd:
        actor.maps.append(_map(actor, fd, path))
    if actor.random.random() < 0.5:
        actor.link(path, actor.small())
    os.unlink(path)
    _store(actor, actor.maps[-1])
    if len(actor.maps) > MAPS_MAX:
        actor.maps.pop(0).end()


@kind(2)
def map_remove(actor: Actor) -> None:
    """A hole is punched through the mapping."""
    mapping = actor.mapped(actor.maps)
    start = mapping.start + actor.random.randrange(mapping.length) // PAGE * PAGE
    syscalls.madvise(start, PAGE, syscalls.MADV_REMOVE)


@kind(2)
def map_direct_read(actor: Actor) -> None:
    """Direct I/O reads from one file into the mapped pages of another."""
    mapping, path = actor.mapped(actor.maps), actor.name()
    with actor.opened(path, os.O_RDONLY | os.O_DIRECT) as fd:
        at = actor.position(path) // PAGE * PAGE
        syscalls.pread_into(fd, mapping.start, min(mapping.length, 4 * PAGE), at)


@kind(1)
def map_debugged(actor: Actor) -> None:
    """Stored to as a debugger does, without a fault of the mapping's own."""
    mapping = actor.mapped(actor.maps)
    offset = actor.random.randrange(mapping.length - 8)
    syscalls.store_remotely(os.getpid(), mapping.start + offset, actor.random.randbytes(8))


def _inherited(actor: Actor) -> Mapping | None:
    return actor.mapped(actor.maps) if actor.maps and actor.random.random() < 0.7 else None


@kind(2)
def map_child(actor: Actor) -> None:
    """A second process stores, through an inherited mapping or one of its own, and ends."""
    path, mapping = actor.name(), _inherited(actor)
    actor.random_source()
    child = os.fork()
    if child == 0:
        _in_child(actor, path, mapping, 0.0)
    os.waitpid(child, 0)


@kind(1)
def map_child_stays(actor: Actor) -> None:
    """A process that is too young to be known stores for a while."""
    actor.reap()
    path, mapping = actor.name(), _inherited(actor)
    actor.random_source()
    if len(actor.children) < CHILDREN_MAX:
        seconds = actor.random.random()
        child = os.fork()
        if child == 0:
            _in_child(actor, path, mapping, seconds)
        actor.children.append(child)


def _in_child(actor: Actor, path: str, mapping: Mapping | None, seconds: float) -> None:
    """Never returns; a call that fails ends the child as it would end the step."""
    try:
        if mapping is None:
            with actor.opened(path) as fd:
                mapping = _map(actor, fd, path)
        end = time.monotonic() + seconds
        _store(actor, mapping)
        while time.monotonic() < end:
            _store(actor, mapping)
            time.sleep(0.005)
    finally:
        os._exit(0)


@kind(4)
def own_map(actor: Actor) -> None:
    """A mapping for ordinary stores."""
    path = actor.own()
    with actor.opened(path) as fd:
        if os.fstat(fd).st_size < OWN_BYTES:
            os.ftruncate(fd, OWN_BYTES)
        start = syscalls.mmap(fd, OWN_BYTES, READ | WRITE)
        actor.own_maps.append(Mapping(start, OWN_BYTES, 0, path, os.fstat(fd).st_ino))
    if len(actor.own_maps) > MAPS_MAX // 2:
        actor.own_maps.pop(0).end()


@kind(8)
def own_store(actor: Actor) -> None:
    mapping = actor.mapped(actor.own_maps)
    offset = actor.random.randrange(mapping.length - 5000)
    data = actor.random.randbytes(actor.random.choice((1, 8, 5000)))
    actor.last = offset
    syscalls.store(mapping.start + offset, data)


@kind(4)
def own_write(actor: Actor) -> None:
    """write(2) beside what is stored."""
    with actor.opened(actor.own()) as fd:
        os.pwrite(fd, actor.random.randbytes(200), actor.position() % SMALL_BYTES)
        if actor.random.random() < 0.3:
            os.fsync(fd)


@kind(1)
def own_replace(actor: Actor) -> None:
    """The file with the mapping keeps no name."""
    os.unlink(actor.own())
