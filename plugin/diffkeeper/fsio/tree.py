"""Writing a tree: directories by path below a root descriptor, content with holes, metadata.

Metadata goes in the order the kernel needs: owner first (a change of owner clears set-id bits and
capabilities), then mode, extended attributes, and times last.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from diffkeeper.fsio import linux

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_BLOCK = 4096
_LINKS_MAX = 40  # what the kernel follows in one path
_ZERO_BLOCK = bytes(_BLOCK)


@contextlib.contextmanager
def opened(root: int, path: list[bytes]) -> Iterator[int]:
    """A descriptor of the directory at these components below `root`."""
    fd = linux.open_directory_beneath(root, path)
    try:
        yield fd
    finally:
        os.close(fd)


def open_without_links(path: str) -> int:
    """Open an existing directory for writing into it; a link in its place is refused (ENOTDIR)."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def make_directory(parent: int, name: bytes) -> int:
    """A descriptor of the directory `name`, made with mode 0700 unless it is there; no link."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=parent)


def open_trusted(path: str) -> int:
    """Open a directory by its absolute path, which other users may change meanwhile.

    A link on the way is followed only if it belongs to root or to the caller, so that nobody else
    chooses where it leads. Raises PermissionError for any other link, OSError as open(2) does.
    """
    current = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    pending = path.split("/")[::-1]
    links = 0
    try:
        while pending:
            name = pending.pop()
            if name in ("", "."):
                continue
            following = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current)
            status = os.fstat(following)
            if not stat.S_ISLNK(status.st_mode):
                os.close(current)
                current = following
                continue
            target = os.readlink("", dir_fd=following)
            os.close(following)
            links += 1
            if status.st_uid not in (0, os.geteuid()):
                raise PermissionError(errno.EPERM, f"{name!r} is another user's symbolic link")
            if links > _LINKS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if target.startswith("/"):
                os.close(current)
                current = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            pending += target.split("/")[::-1]
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=current)
    finally:
        os.close(current)


def set_metadata(
    of: int | str,
    uid: int,
    gid: int,
    mode: int | None,
    xattrs: Mapping[bytes, bytes],
    mtime_ns: int,
) -> None:
    """Owner, mode, extended attributes and modification time of an open file or directory.

    For what must not be opened `of` is `held` of an O_PATH descriptor; `mode` is None for a
    symbolic link.
    """
    os.chown(of, uid, gid)
    if mode is not None:
        os.chmod(of, mode)
    for name, value in xattrs.items():
        os.setxattr(of, name, value)
    os.utime(of, ns=(mtime_ns, mtime_ns))


def held(pin: int) -> str:
    """A path of the very inode that an O_PATH descriptor holds, whatever its name is by now."""
    return f"/proc/self/fd/{pin}"


def write(fd: int, data: bytes, offset: int, *, sparse: bool) -> None:
    """Write all of `data` at `offset`; where `sparse`, blocks of zeros are left as holes."""
    if not sparse:
        _write_all(fd, memoryview(data), offset)
        return
    view = memoryview(data)
    start = 0
    for at in range(0, len(data) + _BLOCK, _BLOCK):
        if at >= len(data) or view[at : at + _BLOCK] == _ZERO_BLOCK[: len(data) - at]:
            if start < at:
                _write_all(fd, view[start : min(at, len(data))], offset + start)
            start = at + _BLOCK


def _write_all(fd: int, view: memoryview, offset: int) -> None:
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count
