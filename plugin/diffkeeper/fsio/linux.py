"""System calls that Python's os module lacks, by ctypes on libc.

Sources: openat2(2), syncfs(2), mount(2), inotify(7), fanotify(7), quotactl(2).

ctypes releases the GIL around each call, and every failure is raised as OSError with its errno.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

_libc = ctypes.CDLL(None, use_errno=True)

_SYS_OPENAT2 = 437
_SYS_QUOTACTL_FD = 443
_PROJECTS = 2  # PRJQUOTA
_RESOLVE_NO_XDEV = 0x01
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_RESOLVE_IN_ROOT = 0x10
_IN_PLACE = _RESOLVE_NO_XDEV | _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_SYMLINKS
_BENEATH = _IN_PLACE | _RESOLVE_BENEATH
_PATH_BYTES_MAX = 4000

MS_BIND = 4096
MNT_DETACH = 2

IN_MODIFY = 0x2
IN_ATTRIB = 0x4
IN_CLOSE_WRITE = 0x8
IN_OPEN = 0x20
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_UNMOUNT = 0x2000
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x01000000
FAN_MODIFY = 0x2
FAN_CLOSE_WRITE = 0x8
_FAN_NONBLOCK_CLOEXEC = 0x3
_FAN_REPORT_FID = 0x200  # an event names a file, and keeps none open
_FAN_MARK_ADD_MOUNT = 0x1 | 0x10
_IN_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC


def _check(result: int, path: str | bytes | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def file_system_type(path: str) -> int:
    """Magic number of its file system, such as 0xef53; OSError. Source: statfs(2)."""
    found = ctypes.create_string_buffer(256)  # more than any struct statfs
    _check(_libc.statfs(os.fsencode(path), found), path)
    return int(ctypes.c_ulong.from_buffer(found).value)


def _openat2(directory: int, path: bytes, flags: int, resolve: int = _BENEATH) -> int:
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return _check(
        _libc.syscall(_SYS_OPENAT2, directory, path, how, ctypes.c_size_t(len(how))), path
    )


def open_directory_beneath(root: int, components: list[bytes]) -> int:
    """Open a directory below `root` by its path components; the caller closes it.

    Follows no symbolic link, crosses no mount, never leaves `root`, and takes paths longer than
    PATH_MAX. Raises OSError: ENOENT, ENOTDIR, ELOOP (a link), EXDEV (a mount).
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NOATIME
    current = -1
    at = 0
    while True:
        start, length = at, 0
        while at < len(components) and length + len(components[at]) < _PATH_BYTES_MAX:
            length += len(components[at]) + 1
            at += 1
        step = components[start:at]
        try:
            following = _openat2(root if current < 0 else current, b"/".join(step) or b".", flags)
        finally:
            if current >= 0:
                os.close(current)
        current = following
        if at == len(components):
            return current


def open_parent(directory: int) -> int:
    """Open the directory above; the caller closes it. OSError EXDEV at the root of a mount."""
    return _openat2(directory, b"..", os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME, _IN_PLACE)


def open_path_beneath(directory: int, name: bytes) -> int:
    """An O_PATH descriptor of one name, of a link itself; OSError EXDEV for a mount point."""
    return _openat2(directory, name, os.O_PATH | os.O_NOFOLLOW)


def open_in_root(root: int, path: str) -> int:
    """An O_PATH descriptor of `path` as seen by a process whose root is the directory `root`.

    A symbolic link at its end is not followed. Raises OSError.
    """
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    how = struct.pack("=QQQ", flags, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    where = os.fsencode(path)
    return _check(_libc.syscall(_SYS_OPENAT2, root, where, how, ctypes.c_size_t(len(how))), where)


def quotactl(fd: int, command: int, number: int, data: bytes) -> bytes:
    """quotactl_fd(2) on the project quotas of the file system of `fd`: `data` as the kernel changed
    it.
    """
    buffer = ctypes.create_string_buffer(data, len(data))
    what = ctypes.c_uint32(command << 8 | _PROJECTS)
    _check(_libc.syscall(_SYS_QUOTACTL_FD, fd, what, ctypes.c_uint32(number), buffer))
    return buffer.raw


def syncfs(fd: int) -> None:
    """Make everything written to the file system of `fd` durable."""
    _check(_libc.syncfs(fd))


def mount_bind(source: str, target: str) -> None:
    """Bind-mount `source` at `target`."""
    _check(_libc.mount(os.fsencode(source), os.fsencode(target), None, MS_BIND, None), target)


def mount_tracefs(target: str) -> None:
    """Mount tracefs on a directory."""
    _check(_libc.mount(b"tracefs", os.fsencode(target), b"tracefs", 0, None), target)


def write_out(fd: int, start: int, length: int) -> None:
    """sync_file_range(2): write dirty pages out and wait; a later store to one faults again.

    An error of an earlier writeback is reported once to the next caller, so it is called twice, and
    only the second error counts. The file's own users get the error all the same.
    """
    flags = 1 | 2 | 4  # WAIT_BEFORE, WRITE, WAIT_AFTER
    place = ctypes.c_int64(start), ctypes.c_int64(length)
    if _libc.sync_file_range(fd, *place, flags) < 0:
        _check(_libc.sync_file_range(fd, *place, flags))


def punch_hole(fd: int, start: int, length: int) -> None:
    """fallocate(2): make a range a hole; the size stays. Raises OSError EOPNOTSUPP, …"""
    flags = 1 | 2  # KEEP_SIZE, PUNCH_HOLE
    _check(_libc.fallocate(fd, flags, ctypes.c_int64(start), ctypes.c_int64(length)))


def unmount(target: str, flags: int = 0) -> None:
    """Unmount `target`; raises OSError EBUSY while it is in use, EINVAL where nothing is."""
    _check(_libc.umount2(os.fsencode(target), flags), target)


def inotify_init() -> int:
    """A new inotify descriptor, non-blocking; raises OSError EMFILE at the instance limit."""
    return _check(_libc.inotify_init1(_IN_NONBLOCK_CLOEXEC))


def inotify_add_watch(fd: int, directory: int, mask: int) -> int:
    """Watch the directory that the descriptor `directory` names; ENOSPC is the watch limit."""
    return inotify_add_watch_path(fd, b"/proc/self/fd/%d" % directory, mask)


def inotify_add_watch_path(fd: int, path: bytes, mask: int) -> int:
    """Watch a path; ENOSPC is the watch limit."""
    return _check(_libc.inotify_add_watch(fd, path, ctypes.c_uint32(mask)), path)


def inotify_rm_watch(fd: int, watch: int) -> None:
    """Remove a watch; EINVAL (the kernel removed it first) is not an error here."""
    if _libc.inotify_rm_watch(fd, watch) < 0 and ctypes.get_errno() != errno.EINVAL:
        _check(-1)


def fanotify_init() -> int:
    """A non-blocking group that reports files by their identity. OSError."""
    return _check(_libc.fanotify_init(_FAN_NONBLOCK_CLOEXEC | _FAN_REPORT_FID, 0))


def fanotify_mark_mount(fd: int, path: str, mask: int) -> None:
    """Add the mount that `path` is in to a group. OSError."""
    where = os.fsencode(path)
    marked = _libc.fanotify_mark(fd, _FAN_MARK_ADD_MOUNT, ctypes.c_uint64(mask), -1, where)
    _check(marked, path)


def mount_id(fd: int) -> int:
    """The id, as in mountinfo, of the mount that a descriptor was opened through."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["mnt_id"])
