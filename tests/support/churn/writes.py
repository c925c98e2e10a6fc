"""Writing: every system call that puts bytes into a file, except mappings and space."""

from __future__ import annotations

import os

from tests.support.churn import syscalls
from tests.support.churn.actor import PAGE, SMALL_BYTES, Actor, kind


@kind(6)
def write(actor: Actor) -> None:
    path = actor.name()
    large = os.path.basename(path).startswith("b")
    with actor.opened(path) as fd:
        os.pwrite(fd, actor.data(large), actor.position(path))


@kind(3)
def write_vector(actor: Actor) -> None:
    path = actor.name()
    with actor.opened(path) as fd:
        os.pwritev(fd, [actor.data(), b"", actor.data()], actor.position(path))


@kind(2)
def write_plain(actor: Actor) -> None:
    """write(2) at the descriptor's own position, in pieces."""
    path = actor.name()
    with actor.opened(path) as fd:
        os.lseek(fd, actor.position(path), os.SEEK_SET)
        for _ in range(actor.random.randrange(1, 6)):
            os.write(fd, actor.random.randbytes(actor.random.randrange(1, 9000)))


@kind(4)
def append(actor: Actor) -> None:
    with actor.opened(actor.small(), os.O_WRONLY | os.O_CREAT | os.O_APPEND) as fd:
        if os.fstat(fd).st_size < SMALL_BYTES:
            os.write(fd, actor.data())


@kind(2)
def overwrite(actor: Actor) -> None:
    """From nothing, as a shell's `>`."""
    with actor.opened(actor.small(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
        os.write(fd, actor.data())


@kind(3)
def keep_open(actor: Actor) -> None:
    actor.keep(actor.name())


@kind(6)
def write_open(actor: Actor) -> None:
    """Through a descriptor whose file may have lost its name, or got another."""
    os.pwrite(actor.kept(), actor.data(), actor.position())


@kind(2)
def truncate_open(actor: Actor) -> None:
    os.ftruncate(actor.kept(), actor.position())


@kind(2)
def unlink_open(actor: Actor) -> None:
    """Deleted, and written on."""
    path = actor.small()
    fd = actor.keep(path)
    os.unlink(path)
    os.pwrite(fd, actor.data(), actor.position())


@kind(3)
def sync(actor: Actor) -> None:
    """Clean pages: the next store to them is seen anew."""
    fd, how = actor.kept(), actor.random.randrange(3)
    if how == 0:
        os.fsync(fd)
    elif how == 1:
        os.fdatasync(fd)
    else:
        syscalls.sync_file_range(fd, actor.position(), 1 << 20)


@kind(3)
def direct(actor: Actor) -> None:
    path = actor.name()
    with actor.opened(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT) as fd:
        memory = actor.buffer(PAGE * actor.random.choice((1, 1, 4, 64)))
        os.pwritev(fd, [memory], actor.position(path) // PAGE * PAGE)


@kind(2)
def splice(actor: Actor) -> None:
    reading, writing = os.pipe()
    try:
        path = actor.name()
        with actor.opened(path) as fd:
            count = os.write(writing, actor.random.randbytes(actor.random.randrange(1, 60_000)))
            os.splice(reading, fd, count, offset_dst=actor.position(path))
    finally:
        os.close(reading)
        os.close(writing)


@kind(2)
def sendfile(actor: Actor) -> None:
    with (
        actor.opened(actor.name(), os.O_RDONLY) as source,
        actor.opened(actor.name()) as target,
    ):
        os.lseek(target, actor.position(), os.SEEK_SET)
        os.sendfile(target, source, actor.position(), actor.random.randrange(1, 100_000))


@kind(2)
def copy_range(actor: Actor) -> None:
    path = actor.name()
    with actor.opened(actor.name(), os.O_RDONLY) as source, actor.opened(path) as target:
        start, at = actor.position(), actor.position(path)
        os.copy_file_range(source, target, actor.random.randrange(1, 100_000), start, at)


@kind(2)
def clone(actor: Actor) -> None:
    with (
        actor.opened(actor.name(), os.O_RDONLY) as source,
        actor.opened(actor.name()) as target,
    ):
        syscalls.clone(target, source)


@kind(2)
def clone_range(actor: Actor) -> None:
    path = actor.name()
    with actor.opened(actor.name(), os.O_RDONLY) as source, actor.opened(path) as target:
        start, at = (actor.position() // PAGE * PAGE, actor.position(path) // PAGE * PAGE)
        syscalls.clone_range(target, at, source, start, PAGE * actor.random.randrange(1, 30))


@kind(2)
def write_from_mapping(actor: Actor) -> None:
    """The bytes come from a mapped file, so that the write itself faults."""
    mapping, path = actor.mapped(actor.maps), actor.name()
    with actor.opened(path) as fd:
        syscalls.pwrite_from(fd, mapping.start, mapping.length, actor.position(path))
