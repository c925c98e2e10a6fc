"""What single processes have open, and in which state they are."""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import TYPE_CHECKING

from diffkeeper.errors import UnsupportedError
from diffkeeper.freeze.process_root import ProcessRoot
from diffkeeper.fsio import mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_GONE = frozenset({errno.ENOENT, errno.ESRCH})

# Of /proc/PID/stat, after the name: proc_pid_stat(5).
_STAT_STATE, _STAT_FLAGS, _STAT_THREADS = 0, 6, 17
_PF_EXITING = 0x4
_PF_FORKNOEXEC = 0x40
_READ_BYTES = 8192  # The kernel hands out a page of such a file at a time.
_INFO = re.compile(rb"^(mnt_id|ino):\s*(\d+)", re.MULTILINE)


def directories(proc_root: str, pid: int | str) -> Iterator[str]:
    """Directories in /proc that describe a process: its own, then that of another thread.

    Once its first thread has ended, mounts, mappings and descriptors of the others are only shown
    there.
    """
    yield f"{proc_root}/{pid}"
    try:
        threads = os.listdir(f"{proc_root}/{pid}/task")
    except OSError:
        return
    yield from (f"{proc_root}/{pid}/task/{number}" for number in threads if number != str(pid))


def read_of(proc_root: str, pid: int | str, name: str) -> bytes:
    """Content of a process's file in /proc; empty when it is exiting."""
    for directory in directories(proc_root, pid):
        try:
            with open(f"{directory}/{name}", "rb", buffering=0) as file:
                return read_all(file.fileno())
        except OSError:
            continue
    return b""


def open_for_write(proc_root: str, pids: Iterable[int], dev: str) -> set[int]:
    """Inodes on the file system `dev` ("major:minor") that one of `pids` has open for writing.

    The file system of a descriptor is found by its mount, so that a file system that hangs is never
    accessed; a descriptor whose mount is not in the process's own mount namespace is stat'ed
    itself. Files without any name left are excluded: they are not recorded.
    """
    found: set[int] = set()
    for pid in pids:
        for path in directories(proc_root, pid):
            try:
                found |= _opened(path, dev)
                break
            except OSError as error:
                vanished(error, errno.EINVAL)
    return found


def _opened(path: str, dev: str) -> set[int]:
    """As `open_for_write`, for one process or thread; OSError when it is exiting."""
    found: set[int] = set()
    directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mounted = mountinfo.parse(_slurp("mountinfo", directory))
        devices = {mount.id: mount.device for mount in mounted}
        for name in _names("fd", directory):
            found |= _written(directory, name, devices, dev)
    finally:
        os.close(directory)
    return found


def _written(directory: int, name: str, devices: dict[int, str], dev: str) -> set[int]:
    """The inode behind one descriptor if it is open for writing on `dev`, else nothing."""
    path = f"fd/{name}"
    try:
        # The write bit of the link's owner shows how the file was opened.
        if not os.lstat(path, dir_fd=directory).st_mode & stat.S_IWUSR:
            return set()
        target = os.readlink(path, dir_fd=directory)
        if not target.startswith("/"):
            return set()
        info = dict(_INFO.findall(_slurp(f"fdinfo/{name}", directory)))
        mounted = devices.get(int(info[b"mnt_id"]))
        if mounted not in (dev, None):
            return set()
        if target.endswith(" (deleted)") and os.stat(path, dir_fd=directory).st_nlink == 0:
            return set()
        if mounted == dev and b"ino" in info:
            return {int(info[b"ino"])}
        status = os.stat(path, dir_fd=directory)
        st_dev = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
        return {status.st_ino} if mounted == dev or st_dev == dev else set()
    except OSError as error:
        vanished(error)
    return set()


def _names(path: str, directory: int) -> list[str]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.listdir(descriptor)
    finally:
        os.close(descriptor)


def _slurp(path: str, directory: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return read_all(descriptor)
    finally:
        os.close(descriptor)


def exiting(proc_root: str, pid: int) -> bool:
    """Whether a process has ended, or is exiting: by its state, or PF_EXITING of linux/sched.h.

    Its first thread may have ended before others: the process has not.
    """
    try:
        fields = _stat(proc_root, pid)
    except OSError as error:
        vanished(error)
        return True
    ending = fields[_STAT_STATE] in (b"Z", b"X") or int(fields[_STAT_FLAGS]) & _PF_EXITING
    return bool(ending) and int(fields[_STAT_THREADS]) <= 1


def has_executed(proc_root: str, pid: int) -> bool:
    """Whether a process has executed a program since it was forked (PF_FORKNOEXEC of
    linux/sched.h); False for one that is gone.
    """
    try:
        return not int(_stat(proc_root, pid)[_STAT_FLAGS]) & _PF_FORKNOEXEC
    except OSError as error:
        vanished(error)
        return False


def is_runtimes(proc_root: str, pid: int) -> bool:
    """Whether a process still runs the container runtime's program, and none of the container's;
    True for one that is gone.

    It has executed nothing since it was forked, and its program does not exist in its own root.
    Looks into that root, which may wait for a disk.
    """
    if has_executed(proc_root, pid):
        return False
    base = f"{proc_root}/{pid}"
    try:
        path, root = os.readlink(f"{base}/exe"), ProcessRoot(base)
    except OSError as error:
        vanished(error)
        return True
    try:
        there = root.open(path)
    except OSError as error:
        # Where it cannot be looked at, it is taken for the container's: that is frozen.
        return error.errno != errno.EREMOTE
    try:
        return not os.path.samestat(os.fstat(there), os.stat(f"{base}/exe"))
    except OSError as error:
        vanished(error)
        return True
    finally:
        os.close(there)


def _stat(proc_root: str, pid: int) -> list[bytes]:
    """The fields after the name in a process's stat; OSError."""
    with open(f"{proc_root}/{pid}/stat", "rb", buffering=0) as file:
        return read_all(file.fileno()).rpartition(b")")[2].split()


def read_all(descriptor: int) -> bytes:
    """The rest of an open file of /proc, in few system calls."""
    parts: list[bytes] = []
    while part := os.read(descriptor, _READ_BYTES):
        parts.append(part)
    return b"".join(parts)


def vanished(error: OSError, *more: int) -> None:
    """Return if the error means that a process or descriptor is gone; raise it otherwise."""
    if error.errno not in _GONE and error.errno not in more:
        raise UnsupportedError(
            f"{error.filename}: {error.strerror}: looking into processes needs CAP_SYS_PTRACE"
        ) from error
