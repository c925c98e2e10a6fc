"""Names: files and directories made, linked, renamed, exchanged, moved out and in, removed."""

from __future__ import annotations

import contextlib
import os
import stat

from tests.support.churn import syscalls
from tests.support.churn.actor import Actor, kind

# Followed by the calls that follow links: none may lead to anything outside the directory.
TARGETS = ("f1", "d1", "nowhere", "x" * 300, "/nonexistent/file")
BELOW_MAX = 4  # directories inside one that is moved


def _vacant(actor: Actor) -> str:
    """A name that was often freed just now."""
    path = actor.small()
    if actor.random.random() < 0.5:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return path


@kind(3)
def link(actor: Actor) -> None:
    actor.link(actor.name(), _vacant(actor))


@kind(2)
def symlink(actor: Actor) -> None:
    os.symlink(actor.random.choice(TARGETS), _vacant(actor))


@kind(2)
def special(actor: Actor) -> None:
    """A FIFO, a socket, or a device without a driver."""
    mode = actor.random.choice((stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR))
    os.mknod(_vacant(actor), mode | 0o640, os.makedev(0, 0))


@kind(3)
def unlink(actor: Actor) -> None:
    os.unlink(actor.name())


@kind(4)
def rename(actor: Actor) -> None:
    os.rename(actor.name(), actor.name())


@kind(2)
def exchange(actor: Actor) -> None:
    """Files with files, directories with directories, or now and then one with the other."""
    one, other = actor.random.choice(
        ((actor.name, actor.name), (actor.directory, actor.directory)) * 5
        + ((actor.small, actor.directory),)
    )
    first, second = one(), other()
    if _shallow(first) and _shallow(second):
        syscalls.rename(first, second, syscalls.RENAME_EXCHANGE)


@kind(2)
def rename_directory(actor: Actor) -> None:
    source = actor.directory()
    if _shallow(source):
        os.rename(source, actor.directory())


@kind(2)
def replace_file(actor: Actor) -> None:
    """As programs that write safely do."""
    path = actor.small()
    made = f"{path}.{actor.tag}"
    with actor.opened(made) as fd:
        os.write(fd, actor.data())
        if actor.random.random() < 0.3:
            os.fsync(fd)
    try:
        os.rename(made, path)
    except OSError:
        os.unlink(made)
        raise


def _shallow(path: str) -> bool:
    return sum(len(found[1]) for found in os.walk(path)) < BELOW_MAX


@kind(3)
def mkdir(actor: Actor) -> None:
    os.mkdir(actor.directory())


@kind(1)
def rmdir(actor: Actor) -> None:
    path = actor.directory()
    for name in os.listdir(path):
        os.unlink(os.path.join(path, name))
    os.rmdir(path)


@kind(2)
def remake_directory(actor: Actor) -> None:
    """Another directory in the place of one that goes on to live elsewhere."""
    path, aside = actor.directory(), actor.directory()
    if _shallow(path):
        os.rename(path, aside)
        os.mkdir(path)
        with actor.opened(os.path.join(path, "f0")) as fd:
            os.write(fd, actor.data())


@kind(3)
def temporary(actor: Actor) -> None:
    """A file that gets its first name after it was written, and is written on."""
    fd = os.open(os.path.dirname(actor.small()), os.O_TMPFILE | os.O_RDWR, 0o644)
    try:
        os.write(fd, actor.data())
        syscalls.link_open(fd, _vacant(actor))
        os.pwrite(fd, actor.data(), actor.position())
    finally:
        os.close(fd)


@kind(2)
def move_out(actor: Actor) -> None:
    source = actor.random.choice((actor.name, actor.directory))()
    if _shallow(source):
        os.rename(source, actor.out())


@kind(3)
def move_in(actor: Actor) -> None:
    source = actor.out()
    fitting = actor.directory if os.path.isdir(source) else actor.name
    os.rename(source, actor.random.choice((fitting, fitting, actor.small))())


@kind(1)
def swap_out(actor: Actor) -> None:
    syscalls.rename(actor.out(), actor.name(), syscalls.RENAME_EXCHANGE)


@kind(2)
def write_outside(actor: Actor) -> None:
    """A file that was part of the directory, or will be."""
    path = actor.out()
    if actor.random.random() < 0.5:
        fd = actor.keep(path)
    else:
        with actor.opened(path) as fd:
            os.pwrite(fd, actor.data(), actor.position())


@kind(1)
def link_outside(actor: Actor) -> None:
    """One file inside and outside, written under the name that is outside."""
    path = actor.out()
    os.link(actor.small(), path, follow_symlinks=False)
    with actor.opened(path) as fd:
        os.pwrite(fd, actor.data(), actor.position())


@kind(4)
def metadata(actor: Actor) -> None:
    path = actor.random.choice((actor.name, actor.directory))()
    how = actor.random.randrange(5)
    if how == 0:
        os.chmod(path, actor.random.choice((0o600, 0o644, 0o755, 0o4711)))
    elif how == 1:
        os.chown(path, actor.random.randrange(5), 0, follow_symlinks=False)
    elif how == 2:
        os.utime(path, ns=(0, actor.random.randrange(2**60)))
    elif how == 3:
        os.setxattr(path, "user.test", actor.random.randbytes(20))
    else:
        os.removexattr(path, "user.test")


@kind(1)
def metadata_open(actor: Actor) -> None:
    """Of a file that may have lost its name."""
    fd = actor.kept()
    os.fchmod(fd, actor.random.choice((0o600, 0o640, 0o755)))
    os.setxattr(fd, "user.other", actor.random.randbytes(30))
