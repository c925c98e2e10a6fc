"""Writes a tree: directories by path below a root descriptor, content with holes, metadata.

Metadata is set in the order that the kernel needs: owner first (a change of owner clears set-id
bits and capabilities), then mode, extended attributes, and times last.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffkeeper.fsio import linux

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 4096
_LINKS_MAX = 40  # what the kernel follows in one path
_COARSE_NS = 2_000_000_000  # the coarsest clock of a file system in use, FAT's
Refused = Callable[[str, bytes, OSError], None]
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
    """Open an existing directory for writing into it; a link is refused (ENOTDIR)."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def make_directory(parent: int, name: bytes) -> int:
    """A descriptor of the directory `name`, created with mode 0700 if needed; a link is refused."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=parent)


def open_trusted(path: str) -> int:
    """Open a directory by its absolute path, which other users may change meanwhile.

    A link on the way is followed only if it belongs to root or to the caller, so that nobody else
    chooses the target. Raises PermissionError for any other link, OSError as open(2) does.
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


@dataclass(frozen=True, slots=True)
class Metadata:
    """Metadata to set on an inode."""

    owner: tuple[int, int] | None  # user and group; None leaves them
    mode: int | None  # None for a symbolic link
    xattrs: Mapping[bytes, bytes]
    mtime_ns: int


def set_metadata(of: int | str, wanted: Metadata, refused: Refused | None = None) -> None:
    """Set owner, mode, extended attributes and modification time of an open file or directory.

    What must not be opened is given as `held` of an O_PATH descriptor. The first OSError is raised;
    or each is passed to `refused`, with what it is about and the attribute's name, and the rest is
    set all the same. Settings that the target accepts and ignores are passed, too.
    """

    def attempt(what: str, name: bytes, act: Callable[..., None], *arguments: object) -> bool:
        try:
            act(of, *arguments)
        except OSError as error:
            if refused is None:
                raise
            refused(what, name, error)
            return False
        return True

    owned = wanted.owner is not None and attempt("owner", b"", os.chown, *wanted.owner)
    mode = wanted.mode
    if mode is not None:
        # With another owner than the recorded one, a set-id bit would give that one's rights away.
        mode = mode if owned else mode & ~(stat.S_ISUID | stat.S_ISGID)
        if not attempt("mode", b"", os.chmod, mode):
            mode = None
    for name, value in wanted.xattrs.items():
        attempt("attribute", name, os.setxattr, name, value)
    times = (wanted.mtime_ns, wanted.mtime_ns)
    timed = attempt("time", b"", lambda of: os.utime(of, ns=times))
    if refused is not None:
        status = os.stat(of)
        done = {
            "owner": not owned or (status.st_uid, status.st_gid) == wanted.owner,
            "mode": mode is None or stat.S_IMODE(status.st_mode) == mode,
            "time": not timed or abs(status.st_mtime_ns - wanted.mtime_ns) < _COARSE_NS,
        }
        for what in (name for name, as_wanted in done.items() if not as_wanted):
            refused(what, b"", OSError(errno.ENOTSUP, "taken, but not done"))


def held(pin: int) -> str:
    """A path of the inode of an O_PATH descriptor, whatever its name is now."""
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
