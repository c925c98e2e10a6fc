"""Finds objects that a live directory still contains; it is read as by a capture, and not changed.

What was written meanwhile has other digests, and is not found.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import structs

from diffkeeper.format import dirtree, root, xattrs
from diffkeeper.format.entry import EMPTY, Entry, Kind, link_key
from diffkeeper.format.ids import ObjectId
from diffkeeper.fsio import inode, tree
from diffkeeper.hashing import node_digest
from diffkeeper.snapshot import attributes
from diffkeeper.snapshot.entries import entry_of, files_of, kind_of, size_of
from diffkeeper.snapshot.exclusions import Exclusions

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from diffkeeper.snapshot.chunker import Chunker, Content
    from diffkeeper.store.store import Store


@dataclass(frozen=True, slots=True)
class SalvageSource:
    """A volume's live directory, and how its files are chunked."""

    volume_id: int
    directory: str
    chunk_bits: int
    exclude: tuple[str, ...] = ()  # what is left out, see `snapshot.exclusions`


@dataclass(slots=True)
class _Directory:
    """A directory that is being read. `below`: subdirectories to read next."""

    name: bytes
    status: os.stat_result
    attributes: bytes
    entries: dict[bytes, Entry | None] = field(default_factory=dict)
    below: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class Salvage:
    """Searches one live directory. `wanted`: returns those of some digests that are needed; `found`
    is called for each object that is found, with its plain content.
    """

    store: Store
    reader: Chunker
    live: SalvageSource
    wanted: Callable[[set[bytes]], set[bytes]]
    found: Callable[[ObjectId, bytes], None]
    _nodes: dict[bytes, bytes] = field(default_factory=dict)
    _links: dict[bytes, Entry | None] = field(default_factory=dict)

    def files(self, paths: set[bytes]) -> Iterator[None]:
        """Read only these files."""
        with self._opened() as top:
            for path in sorted(paths):
                *parents, name = path.strip(b"/").split(b"/")
                with contextlib.suppress(OSError), tree.opened(top, parents) as fd:
                    self._entry(fd, name)
                self._nodes.clear()
                yield

    def everything(self) -> Iterator[None]:
        """Build the trees of all directories, and the root. A directory's nodes are in memory only
        until its own tree is complete.
        """
        with self._opened() as top:
            entry = yield from self._tree(top)
            links = dirtree.apply(EMPTY, self._links, self._nodes.__getitem__, self._put)
            self._put(root.encode_root(entry, links))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self.live.directory, flags)
        try:
            yield fd
        finally:
            os.close(fd)

    def _tree(self, top: int) -> Generator[None, None, Entry]:
        """Generator that returns the entry of the top directory; subdirectories come first, to any
        depth.
        """
        stack = [(yield from self._listed(top, []))]
        while True:
            directory = stack[-1]
            if directory.below:
                path = [*(each.name for each in stack[1:]), directory.below.pop()]
                with contextlib.suppress(OSError):
                    stack.append((yield from self._listed(top, path)))
                continue
            stack.pop()
            entry = self._complete(directory)
            if not stack:
                return entry
            stack[-1].entries[directory.name] = entry

    def _listed(self, top: int, path: list[bytes]) -> Generator[None, None, _Directory]:
        """Generator that returns a directory with its names read, except those of its
        subdirectories.
        """
        with tree.opened(top, path) as fd:
            name = path[-1] if path else b""
            directory = _Directory(name, os.fstat(fd), self._attributes(fd))
            excluded = Exclusions(self.live.exclude).within(path) if self.live.exclude else None
            for name, each in inode.statuses(fd, None, excluded):
                if each is None:
                    continue  # its inode cannot be read
                if stat.S_ISDIR(each.st_mode):
                    directory.below.append(name)
                else:
                    with contextlib.suppress(OSError):
                        directory.entries[name] = self._entry(fd, name)
                yield
        return directory

    def _complete(self, directory: _Directory) -> Entry:
        status, entries = directory.status, directory.entries
        self._nodes.clear()
        content = dirtree.apply(EMPTY, entries, self._nodes.__getitem__, self._put)
        return structs.replace(
            entry_of(status, Kind.DIRECTORY, directory.attributes),
            content=content,
            size=sum(map(size_of, entries.values())),
            links=sum(map(files_of, entries.values())),
        )

    def _entry(self, directory: int, name: bytes) -> Entry | None:
        """The entry of a name that is not a directory, with its content read."""
        with inode.pinned(directory, name) as (pin, status):
            kind = kind_of(status)
            if kind is None or kind is Kind.DIRECTORY:
                return None
            target = inode.link_target(pin) if kind is Kind.SYMLINK else b""
            entry = entry_of(status, kind, self._attributes(pin), target)
            if kind is Kind.FILE:
                entry = self._with_content(pin, status.st_size, entry)
            return self._behind_link(status, entry)

    def _with_content(self, pin: int, size: int, entry: Entry) -> Entry:
        with inode.reading(pin) as fd:
            read = self.reader.read(
                fd, size, self.live.chunk_bits, None, self._nodes.__getitem__, self._emit
            )
        self._emit(read)
        return structs.replace(
            entry, size=size, content=read.root, chunk_bits=read.chunk_bits, sparse=read.sparse
        )

    def _emit(self, content: Content) -> None:
        """Emit the wanted chunks, and put the digests of all into the file's tree."""
        for digest in self.wanted(set(content.data)):
            self.found(ObjectId.chunk(digest), bytes(content.data[digest]))
        content.data.clear()
        content.data_bytes = 0
        content.fold(self._nodes.__getitem__, self._put)

    def _behind_link(self, status: os.stat_result, entry: Entry) -> Entry:
        if status.st_nlink < 2:
            return entry
        record = self.store.index(self.live.volume_id, status.st_ino)
        if record is None or not record.link_id:
            return entry
        self._links[link_key(record.link_id)] = entry
        return Entry(Kind.LINK, link_id=record.link_id)

    def _attributes(self, pin: int) -> bytes:
        found = attributes.recordable(pin).kept
        return self._put(xattrs.encode(found)) if found else b""

    def _put(self, encoded: bytes) -> bytes:
        digest = node_digest(encoded)
        self._nodes[digest] = encoded
        if self.wanted({digest}):
            self.found(ObjectId.node(digest), encoded)
        return digest
