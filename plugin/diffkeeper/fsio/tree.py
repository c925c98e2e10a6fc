"""Writing a tree: directories by path below a root descriptor, content with holes, metadata.

Metadata goes in the order the kernel needs: owner first (a change of owner clears set-id bits and
capabilities), then mode, extended attributes, and times last.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from diffkeeper.fsio import linux

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_BLOCK = 4096
_ZERO_BLOCK = bytes(_BLOCK)


@contextlib.contextmanager
def opened(root: int, path: list[bytes]) -> Iterator[int]:
    """A descriptor of the directory at these components below `root`."""
    fd = linux.open_directory_beneath(root, path)
    try:
        yield fd
    finally:
        os.close(fd)


def set_metadata(
    fd: int, uid: int, gid: int, mode: int, xattrs: Mapping[bytes, bytes], mtime_ns: int
) -> None:
    """Owner, mode, extended attributes and modification time of an open file or directory."""
    os.fchown(fd, uid, gid)
    os.fchmod(fd, mode)
    for name, value in xattrs.items():
        os.setxattr(fd, name, value)
    os.utime(fd, ns=(mtime_ns, mtime_ns))


def set_metadata_at(
    directory: int,
    name: bytes,
    uid: int,
    gid: int,
    mode: int | None,
    xattrs: Mapping[bytes, bytes],
    mtime_ns: int,
) -> None:
    """The same for a name that must not be opened; `mode` is None for a symbolic link."""
    os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
    path = b"/proc/self/fd/%d/%s" % (directory, name)
    if mode is not None:
        os.chmod(path, mode)
    for key, value in xattrs.items():
        os.setxattr(path, key, value, follow_symlinks=False)
    os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=directory, follow_symlinks=False)


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
