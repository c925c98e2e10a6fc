"""Reading one inode safely: type first, then content, extended attributes and holes.

A name is opened with O_PATH, which has no effect on any file type; only what then proves to be a
regular file is opened again, through the descriptor, for reading. So a FIFO or device that
replaces a file at the wrong moment is never opened.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from typing import TYPE_CHECKING

from diffkeeper import limits
from diffkeeper.fsio import linux

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MMAP_HORIZON_CENTISECONDS_MAX = 60_000

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
# Labels of the host's security policy, which are no data.
_XATTRS_OF_THE_SYSTEM = (
    "system.posix_acl_access",
    "system.posix_acl_default",
    "security.capability",
)
_XATTRS_LEFT_OUT = frozenset({"security.selinux", "security.ima", "security.evm"})


@contextlib.contextmanager
def pinned(directory: int, name: bytes) -> Iterator[tuple[int, os.stat_result]]:
    """An O_PATH descriptor of `name` in `directory`, and its lstat.

    Raises OSError: ENOENT, EXDEV (a mount point), …
    """
    fd = linux.open_path_beneath(directory, name)
    try:
        yield fd, os.fstat(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def reading(pin: int) -> Iterator[int]:
    """A readable descriptor of the regular file of `pin`; does not change its access time.

    Raises BlockingIOError while another process holds a lease on the file.
    """
    path = f"/proc/self/fd/{pin}"
    try:
        fd = os.open(path, _READ | os.O_NOATIME)
    except PermissionError:
        fd = os.open(path, _READ)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def writing(pin: int) -> Iterator[int]:
    """A descriptor to read and write the regular file of `pin`.

    Raises OSError: EPERM (it is immutable), ETXTBSY (it is being executed), …
    """
    fd = os.open(f"/proc/self/fd/{pin}", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


def evict(fd: int) -> None:
    """Drop the clean pages of a file from memory, so that the next read is from disk."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def xattrs(pin: int) -> dict[bytes, bytes]:
    """Extended attributes of the inode of `pin` (O_PATH or not); {} where unsupported.

    Raises OSError: E2BIG (more names than the kernel lists), EIO, …
    """
    path = f"/proc/self/fd/{pin}"
    try:
        names = os.listxattr(path)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM):
            return {}
        raise
    found: dict[bytes, bytes] = {}
    for name in names:
        if name in _XATTRS_LEFT_OUT:
            continue
        try:
            found[os.fsencode(name)] = os.getxattr(path, name)
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
    return found


def system_xattrs(pin: int) -> dict[bytes, bytes]:
    """Only those attributes that have a meaning for the kernel, read by name."""
    found: dict[bytes, bytes] = {}
    for name in _XATTRS_OF_THE_SYSTEM:
        try:
            found[os.fsencode(name)] = os.getxattr(f"/proc/self/fd/{pin}", name)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP):
                raise
    return found


def await_change(fd: int) -> None:
    """Wait for system calls that change the regular file `fd` and began before this call.

    They hold the inode's lock, which ext4 takes to look for a hole, and XFS to read. Direct writes
    inside the file share the lock, and are not waited for.
    """
    with contextlib.suppress(OSError):  # ENXIO: the file is empty
        os.lseek(fd, 0, os.SEEK_HOLE)
    os.pread(fd, 1, 0)


def link_target(pin: int) -> bytes:
    """Target of the symbolic link of `pin`, raw bytes."""
    return os.readlink(b"", dir_fd=pin)


def data_extents(fd: int, size: int, position: int = 0) -> Iterator[tuple[int, int]]:
    """Byte ranges [start, end) of `fd` from `position` to `size` that are not holes, in order."""
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
            if start >= size:
                return
            position = min(size, os.lseek(fd, start, os.SEEK_HOLE))
        except OSError as error:
            # There are no more data, or the file was cut meanwhile.
            if error.errno == errno.ENXIO:
                return
            raise
        if position <= start:
            # It was cut meanwhile, which is a change of its own.
            return
        yield start, position


def has_hole(fd: int, size: int) -> bool:
    """Whether there is a hole before `size`; also when the file was cut to nothing meanwhile."""
    try:
        return os.lseek(fd, 0, os.SEEK_HOLE) < size
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size > 0
        raise


def read_exactly(fd: int, view: memoryview, offset: int) -> int:
    """Fill `view` from `offset`; returns the bytes read, fewer only at the end of the file."""
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], offset + done)
        if count == 0:
            return done
        done += count
    return done


def is_regular(status: os.stat_result) -> bool:
    """Whether an lstat is of a regular file."""
    return stat.S_ISREG(status.st_mode)


def names(directory: int) -> list[bytes]:
    """Names in a directory, raw bytes, unsorted."""
    return [os.fsencode(name) for name in os.listdir(directory)]


def status(directory: int, name: bytes) -> os.stat_result | None:
    """lstat of a name in a directory; None when it does not exist. Raises OSError."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def statuses(
    directory: int,
    before: Callable[[list[int]], None] | None = None,
    skip: Callable[[bytes], bool] | None = None,
) -> Iterator[tuple[bytes, os.stat_result | None]]:
    """Name and lstat of everything in a directory, without names that vanish meanwhile.

    None instead of the lstat where a name's inode cannot be read. `before` is called with the inode
    numbers of everything but directories before the first lstat; names for which `skip` is true are
    left out of both. Raises OSError where the directory cannot be read.
    """
    with os.scandir(directory) as entries:
        while window := list(itertools.islice(entries, limits.OBSERVE_NAMES_MAX)):
            if skip is not None:
                window = [entry for entry in window if not skip(os.fsencode(entry.name))]
            if before is not None:
                before([entry.inode() for entry in window if not _is_directory(entry)])
            for entry in window:
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                except OSError:
                    yield os.fsencode(entry.name), None
                else:
                    yield os.fsencode(entry.name), found


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def mmap_dirty_horizon_ns() -> int:
    """How long a mapped page may stay dirty, so that a store to it moves no timestamp, in ns.

    Source: vm.dirty_expire_centisecs and vm.dirty_writeback_centisecs, doubled for slow disks.
    """
    total = 0
    for name in ("dirty_expire_centisecs", "dirty_writeback_centisecs"):
        with open(f"/proc/sys/vm/{name}", encoding="ascii") as file:
            total += int(file.read())
    return min(2 * total, MMAP_HORIZON_CENTISECONDS_MAX) * 10_000_000


def proven_ns() -> int:
    """The age of a timestamp, in ns, from which on it proves a file unchanged."""
    return mmap_dirty_horizon_ns() + limits.TIMESTAMP_GRANULE_NS
