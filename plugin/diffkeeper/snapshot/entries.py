"""Entries from the result of lstat, and what an entry counts for."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

from diffkeeper.format.entry import Entry, Kind

if TYPE_CHECKING:
    import os

KINDS: Final = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFCHR: Kind.CHAR,
    stat.S_IFBLK: Kind.BLOCK,
}


def kind_of(status: os.stat_result) -> Kind | None:
    """The type of a file; None for an unknown one."""
    return KINDS.get(stat.S_IFMT(status.st_mode))


def entry_of(status: os.stat_result, kind: Kind, xattrs: bytes, target: bytes = b"") -> Entry:
    """A file's entry, without content. `xattrs`: digest of their node, or empty; `target`: of a
    symbolic link.
    """
    return Entry(
        kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        target=target,
        rdev=status.st_rdev if kind in (Kind.CHAR, Kind.BLOCK) else 0,
        xattrs=xattrs,
    )


def files_of(entry: Entry | None) -> int:
    """Number of regular files that an entry counts for, by their names."""
    if entry is None:
        return 0
    if entry.kind is Kind.DIRECTORY:
        return entry.links
    return 1 if entry.kind in (Kind.FILE, Kind.LINK) else 0


def size_of(entry: Entry | None) -> int:
    """Logical bytes of the files that an entry counts for, except those behind hard links."""
    return entry.size if entry is not None and entry.kind in (Kind.FILE, Kind.DIRECTORY) else 0
