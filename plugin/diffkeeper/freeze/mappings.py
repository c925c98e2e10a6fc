"""Shared writable mappings of processes: stores through them may leave no trace."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diffkeeper.freeze.processes import directories, read_all, vanished

if TYPE_CHECKING:
    from collections.abc import Iterable

    from diffkeeper.freeze.overlays import Foreign

# struct procmap_query of linux/fs.h (6.11 and later): size, query_flags, query_addr; vma_start,
# vma_end, vma_flags, vma_page_size, vma_offset, inode; dev_major, dev_minor; vma_name_size,
# build_id_size; vma_name_addr, build_id_addr.
_QUERY = struct.Struct("=QQQ QQQQQQ II II QQ")
_QUERY_IOCTL = (3 << 30) | (_QUERY.size << 16) | (ord("f") << 8) | 17
_WRITABLE = 0x02
_QUERY_FLAGS = 0x08 | 0x10 | 0x20  # shared, at the address or next, file-backed
_NO_QUERY = frozenset({errno.ENOTTY, errno.EINVAL, errno.E2BIG})
_Mapping = tuple[tuple[int, int], int, bytes]  # device, inode, name
_ADDRESS_MAX = 2**64 - 1
_NAME_BYTES = 4096
# Address range, permissions, offset, device (in hexadecimal, unlike mountinfo's), inode, name.
_LINE = re.compile(
    rb"^[0-9a-f]+-[0-9a-f]+ .([w-]).s [0-9a-f]+ ([0-9a-f]+):([0-9a-f]+) (\d+)[ \t]*(.*)$",
    re.MULTILINE,
)


@dataclass(slots=True)
class Mappings:
    """`inodes`: files of one file system that are mapped; `rings`: processes with asynchronous I/O;
    `foreign`: mapped files of other file systems, which may be overlays of it.
    """

    inodes: set[int] = field(default_factory=set)
    rings: set[int] = field(default_factory=set)
    foreign: set[Foreign] = field(default_factory=set)


class MappingScanner:
    """Finds shared writable file mappings, by PROCMAP_QUERY if the kernel has it, else in maps.

    Not thread-safe. Rings of Linux AIO and io_uring are such mappings too.
    """

    def __init__(self, proc_root: str) -> None:
        self._proc_root = proc_root
        self._name = ctypes.create_string_buffer(_NAME_BYTES)
        self.by_query = True

    def scan(self, pids: Iterable[int], dev: str, *, writable: bool = True) -> Mappings:
        """Mappings of `pids` on the file system `dev` ("major:minor"); none for processes that
        ended.

        writable: only those that can be stored to without mprotect(2). Raises UnsupportedError
        without permission.
        """
        major, minor = map(int, dev.split(":"))
        mapped = Mappings()
        for pid in pids:
            for device, inode, name in self._of(pid, writable=writable):
                if device == (major, minor):
                    mapped.inodes.add(inode)
                elif name.startswith((b"/[aio]", b"anon_inode:[io_uring]")):
                    mapped.rings.add(pid)
                elif device[0] == 0 and name.startswith(b"/"):
                    # Of no disk: an overlay, or memory.
                    mapped.foreign.add((pid, f"{device[0]}:{device[1]}", name))
        return mapped

    def everything(self, pid: int) -> set[tuple[str, int]]:
        """Device ("major:minor") and inode number of every file that a process may store to."""
        found = self._of(pid, writable=True)
        return {(f"{major}:{minor}", inode) for (major, minor), inode, _ in found if inode}

    def _of(self, pid: int, *, writable: bool) -> list[_Mapping]:
        """The mappings of a process; none when it is exiting."""
        for directory in directories(self._proc_root, pid):
            try:
                maps = os.open(f"{directory}/maps", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    return self._mappings(maps, writable)
                finally:
                    os.close(maps)
            except OSError as error:
                vanished(error)
        return []

    def _mappings(self, maps: int, writable: bool) -> list[_Mapping]:
        """All mappings of one `maps` file; ProcessLookupError when its process has ended."""
        if self.by_query:
            try:
                return self._query(maps, _QUERY_FLAGS | _WRITABLE if writable else _QUERY_FLAGS)
            except OSError as error:
                if error.errno not in _NO_QUERY:
                    raise
                self.by_query = False
        text = read_all(maps)
        if not text:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        return [
            ((int(major, 16), int(minor, 16)), int(inode), name)
            for may, major, minor, inode, name in _LINE.findall(text)
            if may == b"w" or not writable
        ]

    def _query(self, maps: int, flags: int) -> list[_Mapping]:
        found: list[_Mapping] = []
        address = 0
        while address < _ADDRESS_MAX:
            query = self._next(maps, address, flags)
            if query is None:
                break
            address, inode, major, minor = query[4], query[8], query[9], query[10]
            found.append(((major, minor), inode, self._name.value if query[11] else b""))
        return found

    def _next(self, maps: int, address: int, flags: int) -> tuple[int, ...] | None:
        """The first mapping that ends above `address`, or None."""
        for name_bytes in (_NAME_BYTES, 0):
            where = ctypes.addressof(self._name) if name_bytes else 0
            query = bytearray(
                _QUERY.pack(
                    *(_QUERY.size, flags, address, 0, 0, 0, 0, 0, 0, 0, 0),
                    *(name_bytes, 0, where, 0),
                )
            )
            try:
                fcntl.ioctl(maps, _QUERY_IOCTL, query)
            except FileNotFoundError:
                return None
            except OSError as error:
                # A path that is too long for the name is no ring's; everything else is returned
                # without it.
                if error.errno != errno.ENAMETOOLONG:
                    raise
                continue
            return _QUERY.unpack(query)
        return None
