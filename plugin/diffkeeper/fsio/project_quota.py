"""Limits on how much a directory tree may take, enforced by the kernel: project quotas.

Everything created below a directory with PROJINHERIT gets its project number, and the file system
adds up what the files with a number take. ext4 and XFS have the same calls. The file system is
addressed by a descriptor, so that no device node is needed (Linux 5.14).

Sources: quotactl(2), quotactl_fd in fs/quota/quota.c, linux/quota.h, linux/dqblk_xfs.h, linux/fs.h.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from diffkeeper.errors import UnsupportedError
from diffkeeper.fsio import linux

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT_FIRST = 1_600_000_000  # project numbers of ext4 and XFS; other tools count up from 1
PROJECTS_MAX = 1_000_000
PROJECT_TRIES_MAX = 10_000

_FSGETXATTR: Final = 0x801C581F
_FSSETXATTR: Final = 0x401C5820
_ATTRIBUTES = struct.Struct("=IIIII8s")  # struct fsxattr: flags first, the project's number fourth
_PROJINHERIT: Final = 0x200
_GET_STATE: Final = 0x5805  # Q_XGETQSTAT
_GET_QUOTA: Final = 0x800007
_SET_QUOTA: Final = 0x800008
_STATE_BYTES: Final = 128  # more than struct fs_quota_stat
_FLAGS = struct.Struct("=xxH")  # its first fields
_COUNTED, _ENFORCED = 1 << 4, 1 << 5
# struct if_dqblk: limit of space, its use, and the number of inodes are first, third and sixth.
_QUOTA = struct.Struct("=QQQQQQQQI4x")
_BLOCK_LIMITS: Final = 1
_UNIT: Final = 1024  # bytes; of limits
_ROUNDED_MAX: Final = 65_536  # bytes; file systems round limits up to their blocks
_NONE_HERE = frozenset({errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS, errno.ESRCH, errno.EINVAL})
_OURS = range(PROJECT_FIRST, PROJECT_FIRST + PROJECTS_MAX)


@dataclass(frozen=True, slots=True)
class Quota:
    """Limit of a project (0 for none) and what it takes; in bytes. `inodes`: how many it has."""

    limit: int = 0
    used: int = 0
    inodes: int = 0

    def holds(self, size: int) -> bool:
        """Whether the limit is so many bytes, as rounded by the file system."""
        return size <= self.limit < size + _ROUNDED_MAX


def lack(directory: str) -> str:
    """Why the file system of a directory cannot limit projects; "" if it can. OSError."""
    with _opened(directory) as fd:
        try:
            flags, number = _attributes(fd)
            found = linux.quotactl(fd, _GET_STATE, 0, bytes(_STATE_BYTES))
        except OSError as error:
            return f"project quotas cannot be had there: {error.strerror}"
    (on,) = _FLAGS.unpack_from(found)
    if not on & _COUNTED:
        return "project quotas are off there"
    if not on & _ENFORCED:
        return "project quotas are counted there, but not enforced"
    if flags & _PROJINHERIT and number and number not in _OURS:
        return f"all that is made there is in project {number} already"
    return ""


def is_ours(directory: str) -> bool:
    """Whether the directory has a project of its own from the range that is used here."""
    with _opened(directory) as fd:
        return _own(fd) != 0


def allot(directory: str, start: int, size: int) -> int:
    """Give an empty directory a project number that nothing else has, and return it. OSError.

    start: where in the range the search begins, of any size. size: the limit it will get; a number
    with that limit was left by a directory that somebody deleted, and its limit is removed; any
    other limit is somebody else's. UnsupportedError when all numbers that were tried are in use.
    """
    with _opened(directory) as fd:
        for step in range(PROJECT_TRIES_MAX):
            number = _OURS[(start + step) % len(_OURS)]
            _assign(fd, number)
            found = _quota(fd, number)
            # Checked after it was taken: two that take the same one at once both see it.
            if found.inodes == 1 and (not found.limit or found.holds(size)):
                if found.limit:
                    _set(fd, number, 0)
                return number
        _assign(fd, 0)
    raise UnsupportedError(
        f"{PROJECT_TRIES_MAX} project numbers from {_OURS[start % len(_OURS)]} are in use"
    )


def adopt(directory: str, number: int) -> None:
    """Give a tree that nobody has mounted an unused project number, its top directory last.

    Only files and directories: links and special files take no space. OSError with the path, for
    example for an immutable file.
    """
    with _opened(directory) as top:
        pending: list[list[bytes]] = [[]]
        while pending:
            path = pending.pop()
            with _below(top, path) as fd:
                with os.scandir(fd) as entries:
                    for entry in entries:
                        below = [*path, os.fsencode(entry.name)]
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(below)
                        elif entry.is_file(follow_symlinks=False):
                            with _about(below):
                                _assign_file(fd, below[-1], number)
                if path:
                    with _about(path):
                        _assign(fd, number)
        _assign(top, number)


@contextlib.contextmanager
def _about(path: list[bytes]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fsdecode(b"/".join(path))) from error


def quota(directory: str) -> Quota:
    """Limit and usage of a directory's own project; OSError."""
    with _opened(directory) as fd:
        return _quota(fd, _own(fd))


def limit(directory: str, size: int) -> None:
    """Limit the directory's own project to so many bytes, rounded up; 0: no limit. OSError."""
    with _opened(directory) as fd:
        _set(fd, _own(fd), size)


def lift(directory: str, start: int) -> None:
    """Remove the limit from a directory; its number is free again once its files are gone.

    A directory without a project of ours is left alone. If the directory is gone already, `start`
    (see `allot`) finds the number, if nothing uses it. OSError.
    """
    where = directory
    while not os.path.isdir(where):
        where = os.path.dirname(where)
    there = where == directory
    with _opened(where) as fd:
        number = _own(fd) if there else _OURS[start % len(_OURS)]
        try:
            found = _quota(fd, number) if number else Quota()
            if found.limit and (there or not found.inodes):
                _set(fd, number, 0)
        except OSError as error:
            if error.errno not in _NONE_HERE:
                raise


@contextlib.contextmanager
def _opened(directory: str) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _below(top: int, path: list[bytes]) -> Iterator[int]:
    fd = linux.open_directory_beneath(top, path)
    try:
        yield fd
    finally:
        os.close(fd)


def _attributes(fd: int) -> tuple[int, int]:
    """Flags and project number."""
    found = fcntl.ioctl(fd, _FSGETXATTR, bytes(_ATTRIBUTES.size))
    flags, _, _, number, _, _ = _ATTRIBUTES.unpack(found)
    return flags, number


def _own(fd: int) -> int:
    """The number of a directory's own project; 0 for none, and for one that others assigned."""
    try:
        flags, number = _attributes(fd)
    except OSError as error:
        if error.errno not in _NONE_HERE:
            raise
        return 0
    return number if flags & _PROJINHERIT and number in _OURS else 0


def _assign(fd: int, number: int) -> None:
    """Set the project number of an open file or directory, 0 for none."""
    found = fcntl.ioctl(fd, _FSGETXATTR, bytes(_ATTRIBUTES.size))
    flags, hint, extents, _, cow, rest = _ATTRIBUTES.unpack(found)
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        flags = flags | _PROJINHERIT if number else flags & ~_PROJINHERIT
    wanted = _ATTRIBUTES.pack(flags, hint, extents, number, cow, rest)
    fcntl.ioctl(fd, _FSSETXATTR, wanted)


def _assign_file(directory: int, name: bytes, number: int) -> None:
    pin = linux.open_path_beneath(directory, name)
    try:
        if not stat.S_ISREG(os.fstat(pin).st_mode):
            return
        fd = os.open(f"/proc/self/fd/{pin}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _assign(fd, number)
        finally:
            os.close(fd)
    finally:
        os.close(pin)


def _quota(fd: int, number: int) -> Quota:
    try:
        found = linux.quotactl(fd, _GET_QUOTA, number, bytes(_QUOTA.size))
    except OSError as error:
        if error.errno != errno.ENOENT:  # XFS has no record of what never took anything
            raise
        return Quota()
    hard, _, used, _, _, inodes, *_ = _QUOTA.unpack(found)
    return Quota(hard * _UNIT, used, inodes)


def _set(fd: int, number: int, size: int) -> None:
    wanted = _QUOTA.pack(-(-size // _UNIT), 0, 0, 0, 0, 0, 0, 0, _BLOCK_LIMITS)
    linux.quotactl(fd, _SET_QUOTA, number, wanted)
