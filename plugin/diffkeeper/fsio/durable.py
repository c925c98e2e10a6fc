"""Renames, syncs and removals, whose order decides what is on disk after a power cut."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from diffkeeper.errors import DiffKeeperError
from diffkeeper.fsio.removal import Removal


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: str) -> None:
    """Make the content of a file durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_open_file(fd: int) -> None:
    """Make content and metadata of an open file durable."""
    os.fsync(fd)


def write_file(path: str, content: bytes) -> None:
    """Write a file durably, as a whole or not at all; mode 0600."""
    partial = f"{path}.partial"
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        publish_file(fd, partial, path)
    finally:
        os.close(fd)


def remove_file(path: str) -> None:
    """Remove a name durably; absent is not an error."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    sync_directory(os.path.dirname(path))


def rename_directory(source: str, target: str) -> None:
    """Rename within one parent directory, durably."""
    os.rename(source, target)
    sync_directory(os.path.dirname(target))


def replace_file(source: str, target: str) -> None:
    """Replace a file by another one that is durable, durably, on one file system."""
    os.rename(source, target)
    sync_directory(os.path.dirname(target))


def publish_file(fd: int, source: str, target: str) -> None:
    """Make an open file's content durable, then rename it; both names in one directory."""
    os.fsync(fd)
    os.rename(source, target)
    sync_directory(os.path.dirname(target))


def make_directory(path: str, mode: int) -> None:
    """Create a directory with exactly this mode, durably; it may exist already."""
    if not os.path.isdir(path):
        os.mkdir(path, 0o700)
        os.chmod(path, mode)
        sync_directory(os.path.dirname(path))


def remove_tree(path: str) -> None:
    """Remove a directory tree of any depth; absent is not an error.

    Mounts below are not entered, not even of the same file system. Everything that can be removed
    is; raises DiffKeeperError, which names what stays and why.
    """
    removal = Removal()
    above, name = os.path.split(os.path.abspath(path))
    try:
        parent = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        removal.run(parent, os.fsencode(name))
    except OSError as error:
        raise DiffKeeperError(f"cannot remove {path}: {_left(removal, above) or error}") from error
    finally:
        os.close(parent)
    if removal.left:
        raise DiffKeeperError(f"cannot remove {path}: {_left(removal, above)}")


def _left(removal: Removal, above: str) -> str:
    """A text about what stays, with the first names."""
    if not removal.left:
        return ""
    name, error = removal.left[0]
    reason = "something is mounted there" if error.errno == errno.EXDEV else error.strerror
    more = len(removal.left) - 1
    return f"{os.path.join(above, name)}: {reason}" + (f", and {more} more" if more else "")


def directory_status(path: str) -> os.stat_result | None:
    """Status of a directory; None only where nothing at all is.

    OSError where that cannot be found out (EIO, EACCES, ESTALE, a link to nowhere),
    NotADirectoryError where it, or a directory above, is something else.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        if not os.path.islink(path):
            return None
        raise
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    return found


def is_there(path: str) -> bool:
    """Whether a directory is there; errors as of `directory_status`."""
    return directory_status(path) is not None


def device_of(path: str) -> int:
    """The file system that a directory is on, or would be if it were created; OSError."""
    while (found := directory_status(path)) is None:
        path = os.path.dirname(path)
    return found.st_dev


def free_bytes(path: str) -> int:
    """Bytes that anybody may still write on the file system of `path`."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def free_bytes_of_root(path: str) -> int:
    """Bytes that root may still write on the file system of `path`, including its reserve."""
    status = os.statvfs(path)
    return status.f_bfree * status.f_frsize


def boot_id() -> str:
    """Identity of the present boot of the kernel. Source: random(4)."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def highest_number(path: str) -> int:
    """The greatest name in a directory that is a number; 0 if there is none."""
    return max((int(name) for name in os.listdir(path) if name.isdecimal()), default=0)
