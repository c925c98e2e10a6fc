"""Where two snapshots differ: paths that were added, removed or changed.

Directories are followed only where their references differ, so that the cost is that of the
differences. One case needs more: a hard link's entry does not change with its file. When such a
file did, all directories are looked through for its names.
"""

from __future__ import annotations

import heapq
from operator import itemgetter
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from diffkeeper.errors import CorruptionError
from diffkeeper.format import dirtree
from diffkeeper.format.entry import EMPTY, Entry, Kind, encode_entry, link_key
from diffkeeper.format.merkle import same_bytes
from diffkeeper.format.root import decode_root

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffkeeper.format.ids import Root
    from diffkeeper.format.node import Get

TOP: Final = b"."  # path of a volume's top directory
# Of one directory, in memory at once. With more differences it is read again for each so many.
NAMES_MAX: Final = 4_000

# What of a path may differ; content: of a file, target of a symbolic link, number of a device.
Part = Literal["type", "content", "mode", "owner", "xattrs"]
Both = tuple[bytes, Entry | None, Entry | None]  # a name, its old and its new entry
Encoded = tuple[bytes, bytes | None, bytes | None]
Pending = list[tuple[bytes, "Iterator[Both]"]]  # path with a slash, and names below it


class DifferentPath(NamedTuple):
    """One path; of a hard link the entries are those of its file.

    parts: what differs; empty where there is only one of the entries.
    """

    path: bytes
    old: Entry | None
    new: Entry | None
    parts: tuple[Part, ...] = ()


def differences(
    old: Root, new: Root, get: Get, after: bytes | None = None
) -> Iterator[DifferentPath]:
    """All differences, or those that follow the path `after`; CorruptionError, NotFoundError.

    A directory comes before what is below it, names of one directory in the order of their bytes.
    Times of modification are not compared: a directory's is another one whenever a name is.
    """
    return _Trees(old, new, get).differences(after)


class _Trees:
    """Two snapshots beside each other."""

    def __init__(self, old: Root, new: Root, get: Get) -> None:
        self._get = get
        (self._old, self._old_links), (self._new, self._new_links) = (
            decode_root(get(root)) for root in (old, new)
        )
        links = dirtree.diff(self._old_links, self._new_links, get)
        self._linked = any(a is not None and b is not None for _, a, b in links)

    def differences(self, after: bytes | None) -> Iterator[DifferentPath]:
        """See `differences`."""
        if after is None:
            yield from self._difference(TOP, self._old, self._new)
        pending = self._resumed(None if after == TOP else after)
        while pending:
            above, names = pending[-1]
            found = next(names, None)
            if found is None:
                pending.pop()
                continue
            name, old, new = found
            yield from self._difference(above + name, old, new)
            if _is_directory(old) or _is_directory(new):
                pending.append((above + name + b"/", self._names(old, new)))

    def _resumed(self, after: bytes | None) -> Pending:
        """What is left to do after a path, the innermost directory last."""
        above, pending = b"", list[tuple[bytes, "Iterator[Both]"]]()
        old: Entry | None = self._old
        new: Entry | None = self._new
        for name in after.split(b"/") if after is not None else ():
            pending.append((above, self._names(old, new, name)))
            above += name + b"/"
            old, new = self._below(old, name), self._below(new, name)
        pending.append((above, self._names(old, new)))
        return pending

    def _below(self, directory: Entry | None, name: bytes) -> Entry | None:
        return dirtree.lookup(_content(directory), name, self._get)

    def _names(self, old: Entry | None, new: Entry | None, after: bytes = b"") -> Iterator[Both]:
        """What may differ in a directory, by name, past the name `after`."""
        while True:
            found = (each for each in self._unordered(old, new) if each[0] > after)
            batch = heapq.nsmallest(NAMES_MAX, found, key=itemgetter(0))
            for name, before, now in batch:
                yield name, dirtree.decoded(before), dirtree.decoded(now)
            if len(batch) < NAMES_MAX:
                return
            after = batch[-1][0]

    def _unordered(self, old: Entry | None, new: Entry | None) -> Iterator[Encoded]:
        before, after = _content(old), _content(new)
        yield from dirtree.diff_encoded(before, after, self._get)
        if not self._linked or EMPTY in (before, after):
            return
        for name, entry in dirtree.entries(after, self._get):
            if entry.kind not in (Kind.LINK, Kind.DIRECTORY):
                continue
            if before == after or dirtree.lookup(before, name, self._get) == entry:
                yield name, (same := encode_entry(entry)), same

    def _difference(
        self, path: bytes, old: Entry | None, new: Entry | None
    ) -> Iterator[DifferentPath]:
        """The difference at a path, if there is one."""
        before, after = self._file(old, self._old_links), self._file(new, self._new_links)
        if before is None or after is None:
            yield DifferentPath(path, before, after)
        elif parts := tuple(_parts(before, after, self._get)):
            yield DifferentPath(path, before, after, parts)

    def _file(self, entry: Entry | None, links: bytes) -> Entry | None:
        if entry is None or entry.kind is not Kind.LINK:
            return entry
        found = dirtree.lookup(links, link_key(entry.link_id), self._get)
        if found is None:
            raise CorruptionError(f"link {entry.link_id} is not recorded")
        return found


def _is_directory(entry: Entry | None) -> bool:
    return entry is not None and entry.kind is Kind.DIRECTORY


def _content(directory: Entry | None) -> bytes:
    """Root of the names in a directory; of anything else that of none."""
    return directory.content if directory is not None and _is_directory(directory) else EMPTY


def _parts(old: Entry, new: Entry, get: Get) -> Iterator[Part]:
    if old.kind is not new.kind:
        yield "type"
    elif not _same_content(old, new, get):
        yield "content"
    if old.mode != new.mode:
        yield "mode"
    if (old.uid, old.gid) != (new.uid, new.gid):
        yield "owner"
    if old.xattrs != new.xattrs:
        yield "xattrs"


def _same_content(old: Entry, new: Entry, get: Get) -> bool:
    if old.kind is Kind.FILE:
        return same_bytes(old, new, get)
    return (old.target, old.rdev) == (new.target, new.rdev)
