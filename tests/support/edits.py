"""Random edits of a directory, as values that Hypothesis draws and shrinks.

An edit that does not fit what is there (a rename of a name that is absent, a write to a FIFO) does
nothing, so that every list of edits can be applied.
"""

from __future__ import annotations

import ctypes
import fcntl
import inspect
import os
import shutil
import stat
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = [b"a", b"b", b"c", b"\xff\xfe\x80", b"new\nline \x01", b"n" * 255, "ü☃".encode()]
CHUNKS = (4096, 16384)
_EDGES = sorted({max(0, m * c + d) for c in CHUNKS for m in (0, 1, 2, 3, 9) for d in (-1, 0, 1)})
_MODES = (0o000, 0o400, 0o644, 0o755, 0o1777, 0o2755, 0o4755, 0o7777)
_TIMES = (-(2**31), -1_000_000_001, -1, 0, 1, 1_600_000_000_123_456_789, 2**33 * 10**9 + 1)
_KINDS = (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
_FS_IOC_FIEMAP = 0xC020660B
_FIEMAP = struct.Struct("QQIIII")  # start, length, flags, extents found, room for extents
_FIEMAP_EXTENT = struct.Struct("QQQ16xI12x")  # logical, physical, length, flags
_UNWRITTEN = 0x800
_EXTENTS_MAX = 256
_TARGETS = (b"/etc/passwd", b"a", b"../..", b"\xff\n", b"x" * 4000)


def _acl(*, default: bool) -> tuple[bytes, bytes]:
    """An extended POSIX ACL as the kernel takes it: header, then tag, permissions, id."""
    entries = [(1, 7, -1), (2, 5, 1234), (4, 5, -1), (16, 7, -1), (32, 4, -1)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    return (b"system.posix_acl_default" if default else b"system.posix_acl_access"), value


_XATTRS = (
    (b"user.one", b"1"),
    (b"user.one", b"\0\xff" * 200),
    (b"user.two", b""),
    (b"trusted.three", b"3"),
    (b"security.capability", struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)),
    _acl(default=False),
    _acl(default=True),
)
_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD, _EXCHANGE = -100, 2
_PUNCH_KEEP, _ZERO = 3, 16

Path = tuple[int, ...]  # indexes of names, from the root of the tree
_paths = st.lists(st.integers(0, len(NAMES) - 1), min_size=1, max_size=3).map(tuple)
_offsets = st.sampled_from(_EDGES) | st.integers(0, 60_000)
_lengths = st.sampled_from((1, 2, 100, 4095, 4096, 4097, 16384, 40_000))


@dataclass(frozen=True)
class Edit:
    """One change: what it does, where, and numbers that each kind of change reads its own way."""

    kind: str
    path: Path
    other: Path = ()
    offset: int = 0
    length: int = 0
    choice: int = 0


@dataclass
class Editor:
    """Applies edits below `root`; keeps some files open, as programs do."""

    root: bytes
    opened: list[int] = field(default_factory=list)

    def apply(self, edit: Edit) -> None:
        """Apply one edit, if it fits."""
        try:
            getattr(self, edit.kind)(edit)
        except (OSError, shutil.Error):
            return  # what is there is of another kind

    def close(self) -> None:
        """Close every file that is still open."""
        while self.opened:
            os.close(self.opened.pop())

    def at(self, path: Path) -> bytes:
        """The path on disk."""
        return b"/".join([self.root, *(NAMES[i] for i in path)])

    def regular(self, path: Path, flags: int = os.O_RDWR) -> int:
        """A descriptor of a regular file; nothing else is ever opened."""
        name = self.at(path)
        if os.path.lexists(name) and not stat.S_ISREG(os.lstat(name).st_mode):
            raise FileExistsError(name)
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o640)

    def write(self, edit: Edit) -> None:
        fd = self.regular(edit.path, os.O_RDWR | os.O_CREAT)
        # No zeros: a block of zeros beside holes in one chunk may be replayed as a hole.
        os.pwrite(fd, _bytes(edit), edit.offset)
        os.close(fd)

    def zero_chunk(self, edit: Edit) -> None:
        fd = self.regular(edit.path, os.O_RDWR | os.O_CREAT)
        os.pwrite(fd, bytes(CHUNKS[1]), edit.choice % 4 * CHUNKS[1])
        os.close(fd)

    def replace(self, edit: Edit) -> None:
        """As careful programs do: a new file, renamed over the old one."""
        fd = self.regular(edit.other, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.pwrite(fd, _bytes(edit), 0)
        os.close(fd)
        os.rename(self.at(edit.other), self.at(edit.path))

    def rewrite_with_its_time(self, edit: Edit) -> None:
        """Change content and put the modification time back."""
        status = os.lstat(self.at(edit.path))
        fd = self.regular(edit.path)
        os.pwrite(fd, _bytes(edit)[: status.st_size], 0)
        os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.close(fd)

    def truncate(self, edit: Edit) -> None:
        fd = self.regular(edit.path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, edit.offset)
        os.close(fd)

    def punch(self, edit: Edit) -> None:
        fd = self.regular(edit.path)
        start = edit.offset // 4096 * 4096
        mode = (_PUNCH_KEEP, _PUNCH_KEEP, _ZERO)[edit.choice % 3]
        _libc.fallocate(fd, mode, ctypes.c_long(start), ctypes.c_long(4096 * (1 + edit.choice % 5)))
        os.close(fd)

    def keep_open(self, edit: Edit) -> None:
        self.opened.append(self.regular(edit.path, os.O_RDWR | os.O_CREAT))
        if len(self.opened) > 4:
            os.close(self.opened.pop(0))

    def write_opened(self, edit: Edit) -> None:
        """Write to a file that may have lost or changed its names."""
        if self.opened:
            os.pwrite(self.opened[edit.choice % len(self.opened)], _bytes(edit), edit.offset)

    def mkdir(self, edit: Edit) -> None:
        os.mkdir(self.at(edit.path))

    def remove(self, edit: Edit) -> None:
        name = self.at(edit.path)
        if stat.S_ISDIR(os.lstat(name).st_mode):
            shutil.rmtree(name)
        else:
            os.unlink(name)

    def rename(self, edit: Edit) -> None:
        os.rename(self.at(edit.path), self.at(edit.other))

    def exchange(self, edit: Edit) -> None:
        _libc.renameat2(
            _AT_FDCWD, self.at(edit.path), _AT_FDCWD, self.at(edit.other), ctypes.c_uint(_EXCHANGE)
        )

    def link(self, edit: Edit) -> None:
        os.link(self.at(edit.path), self.at(edit.other), follow_symlinks=False)

    def symlink(self, edit: Edit) -> None:
        os.symlink(_TARGETS[edit.choice % len(_TARGETS)], self.at(edit.path))

    def special(self, edit: Edit) -> None:
        kind = _KINDS[edit.choice % len(_KINDS)]
        os.mknod(self.at(edit.path), kind | 0o600, os.makedev(1 + edit.choice, edit.length))

    def chmod(self, edit: Edit) -> None:
        if not os.path.islink(self.at(edit.path)):
            os.chmod(self.at(edit.path), _MODES[edit.choice % len(_MODES)])

    def chown(self, edit: Edit) -> None:
        os.chown(self.at(edit.path), edit.choice, edit.length, follow_symlinks=False)

    def utime(self, edit: Edit) -> None:
        at = _TIMES[edit.choice % len(_TIMES)] + edit.offset
        os.utime(self.at(edit.path), ns=(at, at), follow_symlinks=False)

    def utime_of_root(self, edit: Edit) -> None:
        at = _TIMES[edit.choice % len(_TIMES)]
        os.utime(self.root, ns=(at, at))

    def set_xattr(self, edit: Edit) -> None:
        name, value = _XATTRS[edit.choice % len(_XATTRS)]
        os.setxattr(self.at(edit.path), name, value, follow_symlinks=False)

    def remove_xattr(self, edit: Edit) -> None:
        name = _XATTRS[edit.choice % len(_XATTRS)][0]
        os.removexattr(self.at(edit.path), name, follow_symlinks=False)


_NO_EDITS = ("apply", "close", "at", "regular")
KINDS = tuple(
    n
    for n, v in vars(Editor).items()
    if inspect.isfunction(v) and n[0] != "_" and n not in _NO_EDITS
)


def edits(kinds: tuple[str, ...] = ()) -> st.SearchStrategy[Edit]:
    """One edit of those kinds; of any kind where none is named."""
    return st.builds(
        Edit,
        st.sampled_from(kinds or KINDS),
        _paths,
        _paths,
        _offsets,
        _lengths,
        st.integers(0, 255),
    )


# Files first, since most other edits need one.
batches = st.lists(edits() | edits(("write", "mkdir")), min_size=1, max_size=14)


def _bytes(edit: Edit) -> bytes:
    """Bytes without a zero among them, that differ between choices."""
    pattern = bytes(1 + (edit.choice + i * 7) % 255 for i in range(251))
    return (pattern * (edit.length // len(pattern) + 1))[: edit.length]


def holes(root: bytes, chunk_bytes: int) -> dict[bytes, tuple[str, ...]]:
    """Where each regular file has holes, as exactly as a snapshot promises to keep them.

    Per chunk: `hole`, `zero` (written zeros), or which blocks hold anything but zeros. A file
    without any hole is `solid`: nothing in it may become one.
    """
    return {path[len(root) :]: _holes_of(path, chunk_bytes) for path in _regular_files(root)}


def preallocated(root: bytes) -> set[bytes]:
    """Paths of the regular files with room that is allocated and was never written.

    It reads as zeros; lseek(2) calls it a hole, or data while pages of it are in memory.
    """
    return {path[len(root) :] for path in _regular_files(root) if _has_unwritten(path)}


def _regular_files(root: bytes) -> Iterator[bytes]:
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                yield path


def _has_unwritten(path: bytes) -> bool:
    """Whether FS_IOC_FIEMAP of linux/fiemap.h gives an extent with FIEMAP_EXTENT_UNWRITTEN."""
    request = bytearray(_FIEMAP.pack(0, 2**64 - 1, 0, 0, _EXTENTS_MAX, 0))
    request += bytes(_EXTENTS_MAX * _FIEMAP_EXTENT.size)
    with open(path, "rb") as file:
        fcntl.ioctl(file, _FS_IOC_FIEMAP, request)
    count = _FIEMAP.unpack_from(request)[3]
    assert count < _EXTENTS_MAX, path
    extents = _FIEMAP_EXTENT.iter_unpack(request[_FIEMAP.size :][: count * _FIEMAP_EXTENT.size])
    return any(flags & _UNWRITTEN for *_, flags in extents)


def _holes_of(path: bytes, chunk_bytes: int) -> tuple[str, ...]:
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        if size == 0 or os.lseek(fd, 0, os.SEEK_HOLE) >= size:
            return ("solid",)
        return tuple(_chunk(fd, at, min(chunk_bytes, size - at))
                     for at in range(0, size, chunk_bytes))  # fmt: skip
    finally:
        os.close(fd)


def _chunk(fd: int, start: int, length: int) -> str:
    try:
        if os.lseek(fd, start, os.SEEK_DATA) >= start + length:
            return "hole"
    except OSError:
        return "hole"
    data = os.pread(fd, length, start)
    blocks = [data[at : at + 4096].strip(b"\0") != b"" for at in range(0, length, 4096)]
    return "".join("x" if block else "." for block in blocks) if any(blocks) else "zero"
