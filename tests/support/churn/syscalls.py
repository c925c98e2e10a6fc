"""System calls that Python's os module lacks, or dresses up too much, by ctypes on libc.

Sources: the manual pages of each, and linux/fs.h for the ioctls. Failures are raised as OSError.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct

KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE, INSERT, UNSHARE = 1, 2, 8, 16, 32, 64
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
READ, WRITE = 1, 2
MAP_SHARED = 1
MS_ASYNC, MS_INVALIDATE, MS_SYNC = 1, 2, 4
MADV_DONTNEED, MADV_REMOVE = 4, 9
SYNC_RANGE_ALL = 7
_SYS_RENAMEAT2 = 316
_FICLONE, _FICLONERANGE = 0x40049409, 0x4020940D
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
for _name in ("pread", "pwrite", "process_vm_writev"):
    getattr(_libc, _name).restype = ctypes.c_ssize_t
_FAILED = ctypes.c_void_p(-1).value


def check(result: int) -> int:
    """The result, or the error that it stands for."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def syscall(number: int, *arguments: object) -> int:
    """Any system call; integers are passed in full width."""
    passed = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return check(int(_libc.syscall(ctypes.c_long(number), *passed)))


def fallocate(fd: int, mode: int, start: int, length: int) -> None:
    check(_libc.fallocate(fd, mode, ctypes.c_long(start), ctypes.c_long(length)))


def sync_file_range(fd: int, start: int, length: int, flags: int = SYNC_RANGE_ALL) -> None:
    check(_libc.sync_file_range(fd, ctypes.c_long(start), ctypes.c_long(length), flags))


def rename(source: str, target: str, flags: int) -> None:
    here = -100  # AT_FDCWD
    syscall(_SYS_RENAMEAT2, here, os.fsencode(source), here, os.fsencode(target), flags)


def link_open(fd: int, target: str) -> None:
    """Gives an open file a name."""
    here, follow = -100, 0x400
    path = f"/proc/self/fd/{fd}".encode()
    check(_libc.linkat(here, path, here, os.fsencode(target), follow))


def link(source: str, target: str) -> int:
    """Gives what is at a name another one, a symbolic link, too; returns its inode number."""
    here, empty_path = -100, 0x1000
    pin = os.open(source, os.O_PATH | os.O_NOFOLLOW)
    try:
        check(_libc.linkat(pin, b"", here, os.fsencode(target), empty_path))
        return os.fstat(pin).st_ino
    finally:
        os.close(pin)


def clone(target: int, source: int) -> None:
    fcntl.ioctl(target, _FICLONE, source)


def clone_range(target: int, at: int, source: int, start: int, length: int) -> None:
    fcntl.ioctl(target, _FICLONERANGE, struct.pack("=qQQQ", source, start, length, at))


def mmap(fd: int, length: int, protection: int, at: int = 0) -> int:
    """The address of a shared mapping that keeps no descriptor of its own."""
    start = _libc.mmap(None, ctypes.c_size_t(length), protection, MAP_SHARED, fd, ctypes.c_long(at))
    if start == _FAILED:
        check(-1)
    return int(start)


def munmap(start: int, length: int) -> None:
    check(_libc.munmap(ctypes.c_void_p(start), ctypes.c_size_t(length)))


def mprotect(start: int, length: int, protection: int) -> None:
    check(_libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(length), protection))


def msync(start: int, length: int, flags: int) -> None:
    check(_libc.msync(ctypes.c_void_p(start), ctypes.c_size_t(length), flags))


def madvise(start: int, length: int, advice: int) -> None:
    check(_libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), advice))


def store(start: int, data: bytes) -> None:
    """An ordinary store; past the end of the file it ends the process."""
    ctypes.memmove(start, data, len(data))


def pread_into(fd: int, start: int, length: int, at: int) -> int:
    """Lets the kernel store at an address: past the end of the file it fails with EFAULT."""
    where = ctypes.c_void_p(start)
    return check(int(_libc.pread(fd, where, ctypes.c_size_t(length), ctypes.c_long(at))))


def store_remotely(pid: int, start: int, data: bytes) -> int:
    """Stores into another process's memory, as a debugger does."""
    memory = ctypes.create_string_buffer(data, len(data))
    local = (ctypes.c_ulong * 2)(ctypes.addressof(memory), len(data))
    remote = (ctypes.c_ulong * 2)(start, len(data))
    one = ctypes.c_ulong(1)
    call = _libc.process_vm_writev
    return check(int(call(pid, local, one, remote, one, ctypes.c_ulong(0))))


def pwrite_from(fd: int, start: int, length: int, at: int) -> int:
    """Writes what lies at an address."""
    where = ctypes.c_void_p(start)
    return check(int(_libc.pwrite(fd, where, ctypes.c_size_t(length), ctypes.c_long(at))))
