"""Writes a snapshot into a directory: equal in content, metadata, links and holes.

Objects come through an interface, so that the same code replays from the store, over a socket, or
from anywhere else. The target is written relative to descriptors that only this process has;
nothing outside it is touched.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from diffkeeper import clock, failpoint, limits
from diffkeeper.errors import ConflictError, CorruptionError, NotFoundError
from diffkeeper.format import dirtree, filetree, root, xattrs
from diffkeeper.format.entry import Entry, Kind, chunk_count, link_key
from diffkeeper.format.merkle import is_implied
from diffkeeper.format.records import IndexRecord
from diffkeeper.fsio import inode, linux, tree
from diffkeeper.fsio.descent import Descent
from diffkeeper.snapshot.stat_cache import directory_signature, file_signature

if TYPE_CHECKING:
    from diffkeeper.format.ids import Root
    from diffkeeper.replay.refusals import Refusals
    from diffkeeper.replay.selection import Selection

REPLAY_THREADS = 2
REPLAY_GROUP_FILES = 64

_TYPES = {
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHAR: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.SYMLINK: stat.S_IFLNK,
}
_NAMES = {
    Kind.FILE: "file",
    Kind.DIRECTORY: "directory and all in it",
    Kind.SYMLINK: "symbolic link",
    Kind.FIFO: "FIFO",
    Kind.SOCKET: "socket",
    Kind.CHAR: "device",
    Kind.BLOCK: "device",
}
Progress = Callable[[int, int], None]  # files and bytes done so far
Signed = Callable[[dict[int, IndexRecord]], None]  # takes signatures by inode number


class ObjectSource(Protocol):
    """Source of objects; every object is checked against its digest before it is returned."""

    def nodes(self, digests: list[bytes]) -> list[bytes]:
        """Plain nodes in the order of `digests`; raises NotFoundError, CorruptionError."""

    def chunks(self, digests: list[bytes]) -> list[bytes]:
        """Plain chunks in the order of `digests`; raises NotFoundError, CorruptionError."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay wrote, and seconds until it was durable."""

    files: int
    bytes: int
    seconds: float


@dataclass(slots=True, eq=False)
class _Place:
    """A directory that is being filled; the top one has no parent."""

    parent: _Place | None
    name: bytes
    entry: Entry
    inode: int
    only: Selection | None = None  # the wanted names in it; None: all

    def path(self, *name: bytes) -> list[bytes]:
        """Path components from the target, of the directory or of a name in it."""
        parts = [*name]
        at = self
        while at.parent is not None:
            parts.append(at.name)
            at = at.parent
        return parts[::-1]


_Written = list[tuple[int, IndexRecord, int]]  # inode number, signature, bytes


class Replay:
    """One replay into an existing, empty directory, of which `target` is a descriptor.

    Whatever the target refuses ends it, unless `refusals` collects that. With `only` it writes what
    that selects, and the directories above, and reads no other object.
    """

    def __init__(
        self,
        objects: ObjectSource,
        target: int,
        *,
        progress: Progress | None = None,
        signed: Signed | None = None,
        refusals: Refusals | None = None,
        only: Selection | None = None,
    ) -> None:
        self._refusals = refusals
        self._only = only
        self._objects = objects
        self._progress = progress
        self._signed = signed
        # The tree becomes visible only once it is synced; from then on every change, also through a
        # mapping, moves a timestamp. So these signatures prove as much as old ones. The first
        # capture would doubt younger ones, and read everything again.
        self._proven_ns = inode.proven_ns()
        self._root_fd = target
        self._links_root = b""
        self._descent = Descent(target)
        self._first_names: dict[int, tuple[_Place, bytes]] = {}
        self._signatures: dict[int, IndexRecord] = {}
        self._xattrs: dict[bytes, dict[bytes, bytes]] = {}
        self.files = 0
        self.bytes = 0

    def run(self, snapshot_root: Root) -> Replayed:
        """Write the tree of a snapshot's Merkle root and make it durable.

        Raises NotFoundError or CorruptionError for objects, OSError for the target.
        """
        started = clock.monotonic()
        entry, self._links_root = root.decode_root(self._get(snapshot_root))
        with (
            ThreadPoolExecutor(REPLAY_THREADS, thread_name_prefix="replay") as pool,
            contextlib.closing(self._descent),
        ):
            self._fill(entry, pool)
            sync = pool.submit(linux.syncfs, self._root_fd)
            self._hand_over(0)
            sync.result()
        return Replayed(self.files, self.bytes, clock.monotonic() - started)

    def _hand_over(self, most: int) -> None:
        """Pass signatures on when there are more than `most`."""
        if len(self._signatures) > most:
            if self._signed is not None:
                self._signed(self._signatures)
            self._signatures = {}

    def _get(self, digest: bytes) -> bytes:
        return self._objects.nodes([digest])[0]

    def _fill(self, entry: Entry, pool: ThreadPoolExecutor) -> None:
        """Fill all directories first to last, then set their metadata last to first: creating a
        child moves its parent's time.
        """
        made: list[_Place] = []
        top = _Place(None, b"", entry, os.fstat(self._root_fd).st_ino, self._only)
        self._signatures[top.inode] = directory_signature(0, b"", entry.content)
        pending = [top]
        while pending:
            place = pending.pop()
            failpoint.hit("replay.building")
            made.append(place)
            with self._opened(place) as fd:
                pending.extend(self._directory(place, fd, pool))
        for place in reversed(made):
            with self._opened(place) as fd:
                self._finish(fd, place.entry, place)

    @contextlib.contextmanager
    def _opened(self, place: _Place) -> Iterator[int]:
        fd = self._descent.open(place)
        try:
            yield fd
        finally:
            os.close(fd)

    def _directory(self, place: _Place, fd: int, pool: ThreadPoolExecutor) -> list[_Place]:
        """Create every name of one directory; returns its subdirectories."""
        flying: list[Future[_Written]] = []
        below: list[_Place] = []
        group: list[tuple[bytes, Entry]] = []
        size = 0
        try:
            for name, entry in self._entries(place):
                if name in (b".", b"..") or b"/" in name or b"\0" in name:
                    raise CorruptionError(f"{name!r} is not a name of a file")
                if entry.kind is Kind.DIRECTORY:
                    if not self._directory_made(place, fd, name):
                        continue
                    number = os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino
                    only = place.only and place.only.within(name)
                    below.append(_Place(place, name, entry, number, only))
                    self._signatures[number] = directory_signature(place.inode, name, entry.content)
                elif entry.kind is Kind.LINK:
                    self._link(place, fd, name, entry.link_id)
                else:
                    group.append((name, entry))
                    size += entry.size
                    full = len(group) >= REPLAY_GROUP_FILES
                    if full or size >= limits.REPLAY_GROUP_BYTES:
                        flying.append(pool.submit(self._group, place, fd, group))
                        group, size = [], 0
                        self._land(flying, 2 * REPLAY_THREADS)
            if group:
                flying.append(pool.submit(self._group, place, fd, group))
            self._land(flying, 0)
        finally:
            # The descriptor must stay open until all threads have finished with it.
            wait(flying)
        return below

    def _entries(self, place: _Place) -> Iterator[tuple[bytes, Entry]]:
        if place.only is None:
            return dirtree.entries(place.entry.content, self._get)
        return place.only.entries(place.entry.content, self._get)

    def _directory_made(self, place: _Place, fd: int, name: bytes) -> bool:
        try:
            os.mkdir(name, 0o700, dir_fd=fd)
        except OSError as error:
            self._refused(place.path(name), _NAMES[Kind.DIRECTORY], error)
            return False
        return True

    def _land(self, flying: list[Future[_Written]], left: int) -> None:
        """Wait until at most `left` groups are under way."""
        while len(flying) > left:
            for number, signature, size in flying.pop(0).result():
                self._signatures[number] = signature
                self.files += signature.kind == Kind.FILE
                self.bytes += size
        self._hand_over(limits.OBSERVE_NAMES_MAX)
        if self._progress is not None:
            self._progress(self.files, self.bytes)

    def _group(self, place: _Place, fd: int, group: list[tuple[bytes, Entry]]) -> _Written:
        written = []
        for name, entry in group:
            status = self._made(place, fd, name, entry)
            if status is not None:
                signature = self._signature(status, entry, place.inode, name, 0)
                written.append((status.st_ino, signature, entry.size))
        return written

    def _link(self, place: _Place, fd: int, name: bytes, link_id: int) -> None:
        """Create a name of a file with several names: the first one writes the file."""
        entry = dirtree.lookup(self._links_root, link_key(link_id), self._get)
        if entry is None:
            raise CorruptionError(f"{name!r} is a name of link {link_id}, which is not recorded")
        status = self._linked(place, fd, name, link_id)
        if status is None:
            status = self._made(place, fd, name, entry)
            if status is None:
                return
            self._first_names.setdefault(link_id, (place, name))
            self.bytes += entry.size
        self.files += entry.kind is Kind.FILE
        signature = self._signature(status, entry, place.inode, name, link_id)
        self._signatures[status.st_ino] = signature

    def _linked(self, place: _Place, fd: int, name: bytes, link_id: int) -> os.stat_result | None:
        """Link a file that was written to another name; None when there is none yet, or it is
        refused.
        """
        if link_id not in self._first_names:
            return None
        where, first = self._first_names[link_id]
        try:
            with self._opened(where) as source:
                os.link(first, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            # It becomes a file of its own then, with the same content.
            self._refused(place.path(name), "hard link", error)
            return None
        return os.stat(name, dir_fd=fd, follow_symlinks=False)

    def _made(self, place: _Place, fd: int, name: bytes, entry: Entry) -> os.stat_result | None:
        """As `_make`, None when the target refuses it; an object's error names the file."""
        try:
            return self._make(place, name, fd, entry)
        except (CorruptionError, NotFoundError) as error:
            path = os.fsdecode(b"/".join(place.path(name)))
            raise type(error)(f"file {path!r}: {error}") from error
        except OSError as error:
            self._refused(place.path(name), _NAMES[entry.kind], error)
            return None

    def _refused(self, path: list[bytes], what: str, error: OSError, detail: str = "") -> None:
        """Record a refusal, or raise it if they are not collected."""
        if self._refusals is None:
            raise error
        self._refusals.record(path, what, error, detail)

    def _make(self, place: _Place, name: bytes, fd: int, entry: Entry) -> os.stat_result:
        """Create one file of any type with all its metadata; returns its lstat."""
        if entry.kind is Kind.FILE:
            return self._regular(place, name, fd, entry)
        if entry.kind is Kind.SYMLINK:
            os.symlink(entry.target, name, dir_fd=fd)
        else:
            os.mknod(name, _TYPES[entry.kind] | 0o600, entry.rdev, dir_fd=fd)
        with inode.pinned(fd, name) as (pin, status):
            # Another name of something else would get the owner and mode that are set here.
            if stat.S_IFMT(status.st_mode) != _TYPES[entry.kind] or status.st_nlink > 1:
                raise ConflictError(f"{os.fsdecode(name)!r} was replaced while it was written")
            self._finish(tree.held(pin), entry, place, name)
            return os.fstat(pin)

    def _regular(self, place: _Place, name: bytes, fd: int, entry: Entry) -> os.stat_result:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, 0o600, dir_fd=fd)
        try:
            self._content(file, entry)
            self._finish(file, entry, place, name)
            return os.fstat(file)
        except OSError:
            # A half-written file would look complete where the rest goes on without it.
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=fd)
            raise
        finally:
            os.close(file)

    def _finish(self, made: int | str, entry: Entry, place: _Place, *below: bytes) -> None:
        refusals = self._refusals
        wanted = tree.Metadata(
            owner=(entry.uid, entry.gid) if refusals is None or refusals.owner else None,
            mode=None if entry.kind is Kind.SYMLINK else entry.mode,
            xattrs=self._attributes(entry) if refusals is None or refusals.xattrs else {},
            mtime_ns=entry.mtime_ns,
        )

        def refused(what: str, name: bytes, error: OSError) -> None:
            self._refused(place.path(*below), what, error, os.fsdecode(name) + ": " if name else "")

        tree.set_metadata(made, wanted, None if refusals is None else refused)

    def _attributes(self, entry: Entry) -> dict[bytes, bytes]:
        if not entry.xattrs:
            return {}
        if entry.xattrs not in self._xattrs:
            if len(self._xattrs) >= limits.NODE_CACHE_ENTRIES_MAX:
                self._xattrs.clear()
            self._xattrs[entry.xattrs] = xattrs.decode(self._get(entry.xattrs))
        return self._xattrs[entry.xattrs]

    def _content(self, file: int, entry: Entry) -> None:
        """Write all chunks; holes stay holes, and so do zero blocks of a sparse file."""
        count = chunk_count(entry.size, entry.chunk_bits)
        if count == 0:
            return
        step = 1 << entry.chunk_bits
        batch: list[tuple[int, bytes]] = []
        for number, digest in filetree.runs(entry.content, count, self._get):
            batch.append((number, digest))
            if len(batch) << entry.chunk_bits >= limits.REPLAY_GROUP_BYTES:
                self._write(file, entry, batch, step)
                batch = []
        self._write(file, entry, batch, step)
        if os.fstat(file).st_size < entry.size:
            os.ftruncate(file, entry.size)

    def _write(self, file: int, entry: Entry, batch: list[tuple[int, bytes]], step: int) -> None:
        lengths = [min(step, entry.size - number * step) for number, _ in batch]
        wanted = [
            digest
            for (_, digest), length in zip(batch, lengths, strict=True)
            if not is_implied(digest, length)
        ]
        plain = dict(zip(wanted, self._objects.chunks(wanted), strict=True)) if wanted else {}
        for (number, digest), length in zip(batch, lengths, strict=True):
            data = plain.get(digest)
            if data is None:
                tree.write(file, bytes(length), number * step, sparse=False)
                continue
            if len(data) != length:
                raise CorruptionError(
                    f"chunk {digest.hex()} has {len(data)} bytes where {length} belong"
                )
            tree.write(file, data, number * step, sparse=entry.sparse)

    def _signature(
        self, status: os.stat_result, entry: Entry, parent: int, name: bytes, link_id: int
    ) -> IndexRecord:
        seen_ns = status.st_ctime_ns + self._proven_ns
        return file_signature(status, entry, seen_ns, (parent, name), link_id)


def restore(
    snapshot_root: Root,
    objects: ObjectSource,
    target: str,
    *,
    progress: Progress | None = None,
    signed: Signed | None = None,
) -> Replayed:
    """Replay the snapshot of a Merkle root into `target`, an existing empty directory; durable.

    Raises NotFoundError or CorruptionError for objects, OSError for the target (a link is none),
    ConflictError when somebody else replaces what is being written.
    """
    fd = tree.open_without_links(target)
    try:
        return Replay(objects, fd, progress=progress, signed=signed).run(snapshot_root)
    finally:
        os.close(fd)
