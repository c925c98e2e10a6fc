"""The directory tree of a volume between two snapshots: the Merkle root of each directory so far.

Only directories are in memory, by inode number; names and files are in the stored trees. A change
of names in a directory is applied to that directory's own tree; `compute_root` then carries the new
roots up to the volume's root.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from msgspec import structs

from diffkeeper.errors import CorruptionError
from diffkeeper.format import dirtree, root
from diffkeeper.format.entry import EMPTY, Entry, Kind, link_key
from diffkeeper.format.ids import Root
from diffkeeper.fsio.descent import Descent
from diffkeeper.snapshot.entries import files_of, size_of
from diffkeeper.snapshot.exclusions import Exclusions, Positions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from diffkeeper.snapshot.staging import Staging
    from diffkeeper.sources.base import Dirty


_NONE: Mapping[bytes, Directory] = MappingProxyType({})  # most directories have none below


@dataclass(slots=True, eq=False)
class Directory:
    """One directory. `entry` is what its parent's tree records; `attributes` is what was last seen
    on disk, with what it records besides. They may be the same object.
    """

    inode: int
    parent: Directory | None
    name: bytes
    content: bytes = EMPTY
    files: int = 0
    size: int = 0
    entry: Entry | None = None
    attributes: Entry | None = None
    children: Mapping[bytes, Directory] = field(default_factory=lambda: _NONE)
    listed: bool = False  # all its names were scanned since the volume was opened

    def adopt(self, child: Directory) -> None:
        """Add another directory below this one, at its name."""
        if not isinstance(self.children, dict):
            self.children = {}
        self.children[child.name] = child

    def release(self, child: Directory) -> None:
        """Remove a directory from below this one."""
        if isinstance(self.children, dict) and self.children.get(child.name) is child:
            del self.children[child.name]

    def is_above(self, other: Directory) -> bool:
        """Whether the other directory is this one, or below it."""
        at: Directory | None = other
        while at is not None and at is not self:
            at = at.parent
        return at is not None

    def path(self) -> list[bytes]:
        """Path components from the volume's root."""
        parts: list[bytes] = []
        at: Directory = self
        while at.parent is not None:
            parts.append(at.name)
            at = at.parent
        return parts[::-1]


def depths(directories: Iterable[Directory]) -> dict[Directory, int]:
    """Number of directories above each, and of those above; each is visited once."""
    found: dict[Directory, int] = {}
    for directory in directories:
        way: list[Directory] = []
        at: Directory | None = directory
        while at is not None and at not in found:
            way.append(at)
            at = at.parent
        depth = found[at] if at is not None else -1
        for each in reversed(way):
            depth += 1
            found[each] = depth
    return found


def _is_moved(directory: Directory, descent: Descent) -> bool:
    """Whether its timestamp is not the recorded one, or it is not there at all."""
    try:
        fd = descent.open(directory)
    except OSError:
        return True
    try:
        status, known = os.fstat(fd), directory.attributes
        seen = status.st_ino, status.st_mtime_ns
        return known is None or seen != (directory.inode, known.mtime_ns)
    finally:
        os.close(fd)


def _detach(directory: Directory) -> None:
    if directory.parent is not None:
        directory.parent.release(directory)


def _alike(one: Entry, other: Entry | None) -> bool:
    """Whether two entries agree in the attributes of the directory itself."""
    return other is not None and (
        (one.mode, one.uid, one.gid, one.mtime_ns, one.xattrs)
        == (other.mode, other.uid, other.gid, other.mtime_ns, other.xattrs)
    )


class Excluded:
    """Which names of a tree the option `exclude` leaves out; the state of the match is cached by
    directory.
    """

    def __init__(self, exclusions: Exclusions) -> None:
        self._exclusions = exclusions
        self._positions: dict[Directory, Positions] = {}

    def __bool__(self) -> bool:
        return bool(self._exclusions)

    def forget(self) -> None:
        """Drop the cache: directories were moved or removed."""
        self._positions.clear()

    def match(self, directory: Directory, name: bytes) -> bool:
        """Whether a name is left out, in a directory that is not left out itself."""
        return bool(self._exclusions) and self._exclusions.match(self._of(directory), name)

    def _of(self, directory: Directory) -> Positions:
        way: list[Directory] = []
        at: Directory | None = directory
        while at is not None and at not in self._positions:
            way.append(at)
            at = at.parent
        positions = self._positions[at] if at is not None else self._exclusions.top
        for each in reversed(way):
            if each.parent is not None:
                positions = self._exclusions.below(positions, each.name)
            self._positions[each] = positions
        return positions


class Worktree:
    """Directories by inode number, the links tree, and what changed since the last
    `compute_root`.
    """

    def __init__(
        self,
        stage: Staging,
        inode: int,
        head: bytes | None,
        *,
        same: bool,
        exclude: Sequence[str] = (),
    ) -> None:
        """`same`: the root directory is the very one that the snapshot `head` was taken of.

        exclude: globs of what is left out, see `snapshot.exclusions`.
        """
        self.stage = stage
        self.excluded = Excluded(Exclusions(exclude))
        self.links_root = EMPTY
        entry: Entry | None = None
        if head is not None:
            entry, self.links_root = root.decode_root(stage.get(head))
        self.root = Directory(inode, None, b"", attributes=entry)
        self._placed: set[Directory] = {self.root}
        if entry is not None and same:
            self.root.content, self.root.files, self.root.size = (
                entry.content,
                entry.links,
                entry.size,
            )
        self.links_size = sum(e.size for _, e in dirtree.entries(self.links_root, stage.get))
        self.by_inode: dict[int, Directory] = {inode: self.root}
        # Directories that were not found at their names. They may be elsewhere: they are dropped
        # when a round of the scanner ends without finding them.
        self.missing: set[Directory] = set()
        self._touched: set[Directory] = set()
        self._link_entries: dict[int, Entry] = {}
        # Links of which a name was seen since the last comparison of everything began.
        self.marked: set[int] = set()
        # Something that only a comparison can resolve: a name of a link was removed, maybe the last
        # one; or a file may have had a name that was never seen.
        self.lost_links = False
        # Names of each link that were seen: inode number of the directory, and name.
        self.link_names: dict[int, set[tuple[int, bytes]]] = {}

    def lookup(self, directory: Directory, name: bytes) -> Entry | None:
        """The recorded entry of a name, as the directory's tree has it."""
        return self.lookup_in(directory.content, name)

    def lookup_in(self, content: bytes, name: bytes) -> Entry | None:
        """The entry of a name in the directory tree `content`."""
        return dirtree.lookup(content, name, self.stage.get)

    def count(self, content: bytes) -> int:
        """Number of names in the directory tree `content`."""
        return dirtree.count(content, self.stage.get)

    def names(self, content: bytes) -> Iterator[bytes]:
        """Names in the directory tree `content`."""
        return (name for name, _ in dirtree.entries(content, self.stage.get))

    def file_entry(self, entry: Entry | None) -> Entry | None:
        """The entry with the content of a file: for a LINK, the one in the links tree."""
        if entry is None or entry.kind is not Kind.LINK:
            return entry
        pending = self._link_entries.get(entry.link_id)
        key = link_key(entry.link_id)
        return pending or dirtree.lookup(self.links_root, key, self.stage.get)

    def attach(self, inode: int, parent: Directory, name: bytes, *, same: bool) -> Directory:
        """Add a directory that was found at a name.

        `same`: it is the very directory that was recorded there, so that it starts from what was
        recorded, and signatures of its files are valid; any other starts empty.
        """
        new = Directory(inode, parent, name)
        old = self.lookup(parent, name) if same else None
        if old is not None and old.kind is Kind.DIRECTORY:
            new.content, new.files, new.size, new.entry = old.content, old.links, old.size, old
        self.by_inode[inode] = new
        parent.adopt(new)
        self._touched.add(new)
        self._placed.add(new)
        return new

    def move(self, directory: Directory, parent: Directory, name: bytes) -> None:
        """Move a known directory that was found under another name, with its content."""
        _detach(directory)
        directory.parent, directory.name, directory.entry = parent, name, None
        self.excluded.forget()
        parent.adopt(directory)
        self._touched.add(directory)
        self._placed.add(directory)

    def drop(self, directory: Directory) -> list[int]:
        """Drop a directory and all below it; returns their inode numbers."""
        _detach(directory)
        gone: list[int] = []
        stack = [directory]
        while stack:
            at = stack.pop()
            stack.extend(at.children.values())
            self.by_inode.pop(at.inode, None)
            self._touched.discard(at)
            gone.append(at.inode)
        return gone

    def set_link(self, link_id: int, entry: Entry) -> None:
        """Record the file that all names of `link_id` share."""
        self._link_entries[link_id] = entry

    def set_attributes(self, directory: Directory, attributes: Entry) -> None:
        """Record mode, owner, times and attributes of a directory."""
        if not _alike(attributes, directory.attributes) and self._known(directory):
            directory.attributes = attributes
            self._touched.add(directory)

    def _known(self, directory: Directory) -> bool:
        """Whether the directory is still in the tree."""
        return self.by_inode.get(directory.inode) is directory

    def apply(self, directory: Directory, changes: Mapping[bytes, Entry | None]) -> None:
        """Set or remove names in one directory; a directory that was dropped is left alone."""
        if not self._known(directory):
            return
        get, put = self.stage.get, self.stage.put
        before = directory.content
        directory.content = dirtree.apply(before, changes, get, put)
        if directory.content == before:
            return
        self._touched.add(directory)
        self._placed.add(directory)
        for _, old, new in dirtree.diff(before, directory.content, get):
            directory.files += files_of(new) - files_of(old)
            directory.size += size_of(new) - size_of(old)
            self.lost_links = self.lost_links or (old is not None and old.kind is Kind.LINK)

    def add_link_name(self, link_id: int, directory: Directory, name: bytes) -> None:
        """Record that a name of a link was seen."""
        self.marked.add(link_id)
        self.link_names.setdefault(link_id, set()).add((directory.inode, name))

    def unlist(self) -> None:
        """Mark all directories as not scanned, so that their files are watched anew."""
        for directory in self.by_inode.values():
            directory.listed = False

    def leave_out(self, dirty: Dirty, root_fd: int) -> None:
        """Remove the hints of names that are left out.

        The directory that contains such a name is scanned where the name affects it.
        """
        if not self.excluded:
            return
        self.excluded.forget()
        with contextlib.closing(Descent(root_fd)) as descent:
            for number in self.by_inode.keys() & dirty.names.keys():
                directory, names = self.by_inode[number], dirty.names[number]
                names -= {name for name in names if self._is_left_out(directory, name)}
                if not names:
                    del dirty.names[number]
                    if _is_moved(directory, descent):
                        dirty.directories.add(number)

    def _is_left_out(self, directory: Directory, name: bytes) -> bool:
        """Whether a name is left out, and nothing of it is recorded or known from before it was."""
        return (
            self.excluded.match(directory, name)
            and name not in directory.children
            and self.lookup(directory, name) is None
        )

    def sweep_links(self) -> None:
        """After a comparison of everything: remove the links that no name was seen of."""
        for name, entry in list(dirtree.entries(self.links_root, self.stage.get)):
            if int.from_bytes(name, "big") not in self.marked:
                self._set_links({name: None})
                self.links_size -= entry.size
        for link_id in self.link_names.keys() - self.marked:
            del self.link_names[link_id]

    def pop_placed(self) -> list[Directory]:
        """Directories that were attached or moved since the last call."""
        placed = [directory for directory in self._placed if self._known(directory)]
        self._placed.clear()
        return placed

    def compute_root(self) -> Root:
        """Carry all changes up to the root; returns the volume's Merkle root, whose nodes are
        staged.
        """
        for level in self._levels():
            changes: dict[Directory, dict[bytes, Entry | None]] = {}
            for directory in level:
                seen = directory.attributes
                if directory.parent is None or seen is None:
                    continue
                entry = self._entry(directory, seen)
                if entry != directory.entry:
                    directory.entry = directory.attributes = entry
                    changes.setdefault(directory.parent, {})[directory.name] = entry
            for parent, names in changes.items():
                self.apply(parent, names)
        self._touched.clear()
        self._settle_links()
        if (seen := self.root.attributes) is None:
            raise CorruptionError("the volume's root directory was never looked at")
        return Root(self.stage.put(root.encode_root(self._entry(self.root, seen), self.links_root)))

    @staticmethod
    def _entry(directory: Directory, seen: Entry) -> Entry:
        """What its parent's tree records of a directory; `seen`: of the directory itself."""
        return structs.replace(
            seen, content=directory.content, size=directory.size, links=directory.files
        )

    def _levels(self) -> Iterator[list[Directory]]:
        """Changed directories by depth, deepest first; a parent joins when its child has
        changed.
        """
        found = depths(self._touched)
        levels: dict[int, set[Directory]] = {}
        for directory in self._touched:
            levels.setdefault(found[directory], set()).add(directory)
        if not levels:
            return
        for depth in range(max(levels), 0, -1):
            level = levels.get(depth, set())
            if level:
                yield list(level)
            above = levels.setdefault(depth - 1, set())
            above.update(d.parent for d in level if d.parent is not None)

    def _settle_links(self) -> None:
        changes: dict[bytes, Entry | None] = {}
        for link_id, entry in self._link_entries.items():
            old = self.lookup_in(self.links_root, link_key(link_id))
            self.links_size += size_of(entry) - size_of(old)
            changes[link_key(link_id)] = entry
        self._set_links(changes)
        self._link_entries.clear()

    def _set_links(self, changes: Mapping[bytes, Entry | None]) -> None:
        self.links_root = dirtree.apply(self.links_root, changes, self.stage.get, self.stage.put)

    @property
    def files(self) -> int:
        """Number of regular files in the volume, each name counted."""
        return self.root.files

    @property
    def size(self) -> int:
        """Logical bytes of all files; a file with several names counts once."""
        return self.root.size + self.links_size
