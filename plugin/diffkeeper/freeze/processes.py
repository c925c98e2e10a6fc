"""What single processes hold of a file system: writable mappings, open files, asynchronous I/O."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import struct
from typing import TYPE_CHECKING

from diffkeeper.errors import UnsupportedError
from diffkeeper.freeze.mounts import parse

if TYPE_CHECKING:
    from collections.abc import Iterable

_GONE = frozenset({errno.ENOENT, errno.ESRCH})

# struct procmap_query of linux/fs.h (6.11 and later): size, query_flags, query_addr; vma_start,
# vma_end, vma_flags, vma_page_size, vma_offset, inode; dev_major, dev_minor; name and build id.
_QUERY = struct.Struct("=QQQ QQQQQQ II II QQ")
_QUERY_IOCTL = (3 << 30) | (_QUERY.size << 16) | (ord("f") << 8) | 17
_QUERY_FLAGS = 0x02 | 0x08 | 0x10 | 0x20  # writable, shared, at the address or next, file-backed
_ADDRESS_MAX = 2**64 - 1
_READ_BYTES = 8192  # The kernel hands out a page of such a file at a time.
_INFO = re.compile(rb"^(mnt_id|ino):\s*(\d+)", re.MULTILINE)


class MappingScanner:
    """Finds shared writable file mappings, by PROCMAP_QUERY if the kernel has it, else in maps."""

    def __init__(self, proc_root: str) -> None:
        self._proc_root = proc_root
        self.by_query = True

    def inodes(self, pids: Iterable[int], dev: str) -> set[int]:
        """Inodes on the file system `dev` ("major:minor") that one of `pids` can store into."""
        major, minor = map(int, dev.split(":"))
        found: set[int] = set()
        for pid in pids:
            try:
                descriptor = os.open(f"{self._proc_root}/{pid}/maps", os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                _vanished(error)
                continue
            try:
                found |= self._process(descriptor, major, minor)
            finally:
                os.close(descriptor)
        return found

    def _process(self, maps: int, major: int, minor: int) -> set[int]:
        if self.by_query:
            try:
                return _query(maps, major, minor)
            except OSError as error:
                if error.errno not in (errno.ENOTTY, errno.EINVAL, errno.E2BIG):
                    _vanished(error)
                    return set()
                self.by_query = False
        return _search(read_all(maps), major, minor)


def aio_pids(proc_root: str, pids: Iterable[int]) -> set[int]:
    """Those of `pids` that may have writes in flight which a freeze does not stop.

    Linux AIO contexts are mappings named `/[aio]`; io_uring instances are descriptors, and mostly
    mappings too.
    """
    found: set[int] = set()
    for pid in pids:
        try:
            with open(f"{proc_root}/{pid}/maps", "rb", buffering=0) as file:
                text = read_all(file.fileno())
            if b"/[aio]" in text or b"[io_uring]" in text or _has_ring(f"{proc_root}/{pid}/fd"):
                found.add(pid)
        except OSError as error:
            _vanished(error)
    return found


def open_for_write(proc_root: str, pids: Iterable[int], dev: str) -> set[int]:
    """Inodes on the file system `dev` ("major:minor") that one of `pids` has open for writing.

    Descriptors are told by their mount, so that no file system that hangs is ever asked; only one
    whose mount is not in the process's own mount namespace is looked at itself.
    """
    found: set[int] = set()
    for pid in pids:
        try:
            directory = os.open(f"{proc_root}/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            _vanished(error)
            continue
        try:
            mounts = {mount.id: mount.dev for mount in parse(_slurp("mountinfo", directory))}
            for name in _names("fd", directory):
                found |= _written(directory, name, mounts, dev)
        except OSError as error:
            _vanished(error, errno.EINVAL)
        finally:
            os.close(directory)
    return found


def _written(directory: int, name: str, mounts: dict[int, str], dev: str) -> set[int]:
    """The inode behind one descriptor if it is open for writing on `dev`, else nothing."""
    path = f"fd/{name}"
    try:
        # The link's own owner-write bit shows how the file was opened.
        if not os.lstat(path, dir_fd=directory).st_mode & stat.S_IWUSR:
            return set()
        if not os.readlink(path, dir_fd=directory).startswith("/"):
            return set()
        info = dict(_INFO.findall(_slurp(f"fdinfo/{name}", directory)))
        mounted = mounts.get(int(info[b"mnt_id"]))
        if mounted == dev and b"ino" in info:
            return {int(info[b"ino"])}
        if mounted is None or mounted == dev:
            status = os.stat(path, dir_fd=directory)
            st_dev = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
            return {status.st_ino} if mounted == dev or st_dev == dev else set()
    except OSError as error:
        _vanished(error)
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


def _query(maps: int, major: int, minor: int) -> set[int]:
    found: set[int] = set()
    address = 0
    while address < _ADDRESS_MAX:
        query = bytearray(_QUERY.size)
        struct.pack_into("=QQQ", query, 0, _QUERY.size, _QUERY_FLAGS, address)
        try:
            fcntl.ioctl(maps, _QUERY_IOCTL, query)
        except FileNotFoundError:
            break  # No further mapping fits.
        values = _QUERY.unpack(query)
        address, inode, device = values[4], values[8], values[9:11]
        if device == (major, minor):
            found.add(inode)
    return found


def _search(text: bytes, major: int, minor: int) -> set[int]:
    # maps has devices in hexadecimal, mountinfo in decimal digits.
    pattern = rb"^[0-9a-f]+-[0-9a-f]+ .w.s [0-9a-f]+ %02x:%02x (\d+)" % (major, minor)
    return {int(inode) for inode in re.findall(pattern, text, re.MULTILINE)}


def _has_ring(directory: str) -> bool:
    for name in os.listdir(directory):
        try:
            if os.readlink(f"{directory}/{name}") == "anon_inode:[io_uring]":
                return True
        except OSError as error:
            _vanished(error)
    return False


def read_all(descriptor: int) -> bytes:
    """The rest of an open file of /proc, in few system calls."""
    parts: list[bytes] = []
    while part := os.read(descriptor, _READ_BYTES):
        parts.append(part)
    return b"".join(parts)


def _vanished(error: OSError, *more: int) -> None:
    """Return when the process or descriptor is gone: it writes no more. Raise otherwise."""
    if error.errno not in _GONE and error.errno not in more:
        raise UnsupportedError(
            f"{error.filename}: {error.strerror}: looking into processes needs CAP_SYS_PTRACE"
        ) from error
