"""Describes and compares directory trees in every respect that a replay must restore."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING

from diffkeeper.snapshot.exclusions import Exclusions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Description = dict[bytes, tuple[object, ...]]


def _xattrs(path: bytes) -> tuple[tuple[str, bytes], ...]:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return tuple((n, os.getxattr(path, n, follow_symlinks=False)) for n in names)


def _extents(path: bytes, size: int) -> tuple[tuple[int, int], ...]:
    found = []
    fd = os.open(path, os.O_RDONLY)
    try:
        at = 0
        while at < size:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break
            at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
            found.append((start, at))
    finally:
        os.close(fd)
    return tuple(found)


def _digest(path: bytes) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(root: str | Path, *, holes: bool = False, mtimes: bool = True) -> Description:
    """Path below `root` to everything about it; names of one inode share a number."""
    base = os.fsencode(root)
    found: Description = {}
    inodes: dict[int, bytes] = {}
    pending = [b""]
    while pending:
        relative = pending.pop()
        path = base + relative
        status = os.lstat(path)
        kind = stat.S_IFMT(status.st_mode)
        detail: tuple[object, ...] = ()
        if stat.S_ISDIR(status.st_mode):
            pending.extend(relative + b"/" + name for name in os.listdir(path))
        elif stat.S_ISLNK(status.st_mode):
            detail = (os.readlink(path),)
        elif stat.S_ISREG(status.st_mode):
            detail = (status.st_size, _digest(path))
            if holes:
                detail += (_extents(path, status.st_size),)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            detail = (status.st_rdev,)
        linked: object = 0
        if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
            linked = status.st_ino
            inodes[status.st_ino] = min(inodes.get(status.st_ino, relative), relative)
        found[relative] = (
            kind,
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns if mtimes else 0,
            _xattrs(path),
            linked,
            *detail,
        )
    return {
        path: tuple(inodes[v] if i == 6 and isinstance(v, int) and v else v
                    for i, v in enumerate(values))
        for path, values in found.items()
    }  # fmt: skip


def without(found: Description, exclude: Sequence[str]) -> Description:
    """The same without what these globs name, and all that is in it."""
    exclusions = Exclusions(exclude)
    kept: Description = {}
    for path, values in found.items():
        names = path.split(b"/")[1:]
        if not any(exclusions.within(names[:at])(name) for at, name in enumerate(names)):
            kept[path] = values
    groups: dict[object, list[bytes]] = {}
    for path, values in kept.items():
        if values[6]:
            groups.setdefault(values[6], []).append(path)
    for paths in groups.values():
        linked = min(paths) if len(paths) > 1 else 0
        for path in paths:
            kept[path] = (*kept[path][:6], linked, *kept[path][7:])
    return kept


def difference(left: Description, right: Description) -> list[str]:
    """A line for each path that differs; empty when the trees are equal."""
    lines = []
    for path in sorted(left.keys() | right.keys()):
        if left.get(path) != right.get(path):
            lines.append(f"{path!r}: {left.get(path)} != {right.get(path)}")
    return lines
