"""Compares what is on disk, and what is in the store, with a snapshot's Merkle root.

`Verifier.live` reads every file and compares digests and metadata with the tree, whatever the
timestamps are. `Verifier.stored` reads every object below the root; the store checks each against
its key. Both name what does not match.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diffkeeper import clock
from diffkeeper.errors import CorruptionError, NotFoundError
from diffkeeper.format import dirtree, filetree, root, xattrs
from diffkeeper.format.entry import Entry, Kind, chunk_count, link_key
from diffkeeper.format.merkle import is_implied
from diffkeeper.fsio import inode, tree
from diffkeeper.snapshot import attributes
from diffkeeper.snapshot.entries import kind_of
from diffkeeper.snapshot.exclusions import Exclusions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from diffkeeper.format.ids import Root
    from diffkeeper.snapshot.chunker import Chunker, Content
    from diffkeeper.store.store import Store

VERIFY_FAULTS_MAX = 100


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One path that does not match, and why.

    damaged: only the content differs, or cannot be read; then `integrity.bit_rot` decides whether
    it was written or has rotted.
    """

    path: bytes
    problem: str
    damaged: bool = False


@dataclass(slots=True)
class Result:
    """Result of a verification. `complete` is false when its time ran out."""

    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    complete: bool = True
    mismatches: list[Mismatch] = field(default_factory=list)


class _OutOfTime(Exception):
    """Ends the walk when time is over; never leaves this module."""


class Verifier:
    """One verification of one snapshot root, within `seconds` (None: no limit).

    `cancelled` is called between files.
    """

    def __init__(
        self,
        store: Store,
        reader: Chunker,
        *,
        seconds: float | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._reader = reader
        self._deadline = None if seconds is None else clock.monotonic() + seconds
        self._cancelled = cancelled
        self._links_root = b""
        self._link_inodes: dict[int, int] = {}
        self._exclusions = Exclusions()
        self.result = Result()

    def live(
        self,
        directory: str,
        snapshot_root: Root,
        unless: Root | None = None,
        exclude: Sequence[str] = (),
    ) -> Result:
        """Compare a directory with a root, except what is equal to the root `unless`.

        exclude: globs of what may be missing in the snapshot, see `snapshot.exclusions`.
        """
        started = clock.monotonic()
        self._exclusions = Exclusions(exclude)
        entry, self._links_root = root.decode_root(self._store.node(snapshot_root))
        proven = self._proven(unless)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._walk(fd, entry, proven)
        except _OutOfTime:
            self.result.complete = False
        finally:
            os.close(fd)
        self.result.seconds = clock.monotonic() - started
        return self.result

    def _proven(self, unless: Root | None) -> Entry | None:
        """The verified root directory of `unless`; None where files behind links have changed."""
        if unless is None:
            return None
        entry, links_root = root.decode_root(self._store.node(unless))
        return entry if links_root == self._links_root else None

    def stored(self, snapshot_root: Root) -> Result:
        """Read every object below a root."""
        started = clock.monotonic()
        try:
            entry, self._links_root = root.decode_root(self._store.node(snapshot_root))
            self._stored_directory(entry)
            for name, shared in dirtree.entries(self._links_root, self._store.node):
                self._stored_file(b"hard link %d" % int.from_bytes(name, "big"), shared)
        except (CorruptionError, NotFoundError) as error:
            self._fault(b"/", str(error))
        except _OutOfTime:
            self.result.complete = False
        self.result.seconds = clock.monotonic() - started
        return self.result

    def _check(self) -> None:
        late = self._deadline is not None and clock.monotonic() > self._deadline
        if late or self._cancelled() or len(self.result.mismatches) >= VERIFY_FAULTS_MAX:
            raise _OutOfTime

    def _fault(self, path: bytes, problem: str, *, damaged: bool = False) -> None:
        self.result.mismatches.append(Mismatch(path, problem, damaged))

    # The store

    def _stored_directory(self, top: Entry) -> None:
        pending: list[tuple[bytes, Entry]] = [(b"", top)]
        while pending:
            path, directory = pending.pop()
            self._stored_xattrs(path, directory)
            try:
                for name, entry in dirtree.entries(directory.content, self._store.node):
                    below = path + b"/" + name
                    if entry.kind is Kind.DIRECTORY:
                        pending.append((below, entry))
                    elif entry.kind is not Kind.LINK:
                        self._stored_file(below, entry)
            except (CorruptionError, NotFoundError) as error:
                self._fault(path + b"/", str(error))

    def _stored_xattrs(self, path: bytes, entry: Entry) -> None:
        try:
            if entry.xattrs:
                xattrs.decode(self._store.node(entry.xattrs))
        except (CorruptionError, NotFoundError) as error:
            self._fault(path, str(error))

    def _stored_file(self, path: bytes, entry: Entry) -> None:
        self._check()
        self._stored_xattrs(path, entry)
        if entry.kind is not Kind.FILE:
            return
        count = chunk_count(entry.size, entry.chunk_bits)
        step = 1 << entry.chunk_bits
        try:
            for number, digest in filetree.runs(entry.content, count, self._store.node):
                length = min(step, entry.size - number * step)
                if not is_implied(digest, length) and len(self._store.chunk(digest)) != length:
                    raise CorruptionError(f"chunk {number} has a wrong length")
        except (CorruptionError, NotFoundError) as error:
            self._fault(path, str(error))
        self.result.files += 1
        self.result.bytes += entry.size

    # The live directory

    def _walk(self, root_fd: int, top: Entry, proven: Entry | None) -> None:
        pending: list[tuple[list[bytes], Entry, Entry | None]] = [([], top, proven)]
        while pending:
            path, recorded, known = pending.pop()
            try:
                with tree.opened(root_fd, path) as fd:
                    self._directory_metadata(path, fd, recorded)
                    pending.extend(self._directory(path, fd, recorded, known))
            except OSError as error:
                self._fault(b"/".join(path), f"cannot be read: {error.strerror}")

    def _directory_metadata(self, path: list[bytes], fd: int, recorded: Entry) -> None:
        problem = self._metadata(os.fstat(fd), recorded, fd)
        if problem:
            self._fault(b"/".join(path) or b".", problem)

    def _directory(
        self, path: list[bytes], fd: int, recorded: Entry, known: Entry | None
    ) -> Iterator[tuple[list[bytes], Entry, Entry | None]]:
        """Compare what differs from `known`; returns the subdirectories to visit next."""
        get = self._store.node
        names = set(inode.names(fd))
        if self._exclusions:
            excluded = self._exclusions.within(path)
            names = {
                name
                for name in names
                if not excluded(name) or dirtree.lookup(recorded.content, name, get) is not None
            }
        if known is None or len(names) != dirtree.count(recorded.content, get):
            yield from self._whole(path, fd, recorded, names)
            return
        for name, old, new in dirtree.diff(known.content, recorded.content, get):
            self._check()
            if new is None:
                continue  # it was removed; if nothing replaced it, the number of names shows that
            if new.kind is Kind.DIRECTORY:
                same = old is not None and old.kind is Kind.DIRECTORY
                yield [*path, name], new, old if same else None
            else:
                self._name(path, fd, name, new)

    def _whole(
        self, path: list[bytes], fd: int, recorded: Entry, on_disk: set[bytes]
    ) -> Iterator[tuple[list[bytes], Entry, Entry | None]]:
        for name, entry in dirtree.entries(recorded.content, self._store.node):
            self._check()
            if name not in on_disk:
                self._fault(b"/".join([*path, name]), "is missing")
                continue
            on_disk.discard(name)
            if entry.kind is Kind.DIRECTORY:
                yield [*path, name], entry, None
            else:
                self._name(path, fd, name, entry)
        for name in on_disk:
            if self._is_ours(fd, name):
                self._fault(b"/".join([*path, name]), "is not in the snapshot")

    @staticmethod
    def _is_ours(fd: int, name: bytes) -> bool:
        """Whether a name belongs to the volume: neither a mount point nor another file system."""
        try:
            with inode.pinned(fd, name) as (_, status):
                return status.st_dev == os.fstat(fd).st_dev
        except OSError as error:
            return error.errno != errno.EXDEV

    def _name(self, path: list[bytes], fd: int, name: bytes, entry: Entry) -> None:
        self._check()
        link_id = entry.link_id
        if entry.kind is Kind.LINK:
            found = dirtree.lookup(self._links_root, link_key(link_id), self._store.node)
            if found is None:
                raise CorruptionError(f"link {link_id} is not recorded")
            entry = found
        damaged = False
        try:
            with inode.pinned(fd, name) as (pin, status):
                problem = self._metadata(status, entry, pin)
                damaged = not problem and entry.kind is Kind.FILE
                problem = problem or self._file(status, entry, pin)
                if link_id and self._link_inodes.setdefault(link_id, status.st_ino) != (
                    status.st_ino
                ):
                    problem = problem or "is not the same file as its other names"
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
        if problem:
            self._fault(b"/".join([*path, name]), problem, damaged=damaged)
        self.result.files += 1
        self.result.bytes += entry.size

    def _metadata(self, status: os.stat_result, entry: Entry, pin: int) -> str:
        """How metadata differs, or ""."""
        kind = kind_of(status)
        if kind is not entry.kind:
            return (
                f"is a {kind.name.lower() if kind else 'strange'} where a"
                f" {entry.kind.name.lower()} belongs"
            )
        pairs = {
            "mode": (stat.S_IMODE(status.st_mode), entry.mode),
            "uid": (status.st_uid, entry.uid),
            "gid": (status.st_gid, entry.gid),
            "mtime": (status.st_mtime_ns, entry.mtime_ns),
        }
        if kind is Kind.FILE:
            pairs["size"] = (status.st_size, entry.size)
        if kind in (Kind.CHAR, Kind.BLOCK):
            pairs["device"] = (status.st_rdev, entry.rdev)
        for what, (found, wanted) in pairs.items():
            if found != wanted:
                return f"{what} is {found}, recorded as {wanted}"
        wanted_xattrs = xattrs.decode(self._store.node(entry.xattrs)) if entry.xattrs else {}
        if attributes.recordable(pin).kept != wanted_xattrs:
            return "extended attributes differ"
        return ""

    def _file(self, status: os.stat_result, entry: Entry, pin: int) -> str:
        """How content differs, or ""."""
        if entry.kind is Kind.SYMLINK and inode.link_target(pin) != entry.target:
            return "link target differs"
        if entry.kind is not Kind.FILE:
            return ""
        return self._content(pin, status.st_size, entry)

    def _content(self, pin: int, size: int, entry: Entry) -> str:
        """How the bytes of a regular file differ, or ""."""

        def stop_early(content: Content) -> None:
            """Stop at the first difference; equal content is not kept in memory."""
            found = _first_difference(content, entry, self._store)
            if found is not None:
                raise _DiffersError(found)
            content.changes.clear()
            content.data.clear()
            content.data_bytes = 0

        try:
            with inode.reading(pin) as fd:
                stop_early(
                    self._reader.read(
                        fd, size, entry.chunk_bits, entry, self._store.node, stop_early
                    )
                )
        except _DiffersError as found:
            return f"content differs from byte {found.number << entry.chunk_bits}"
        return ""


class _DiffersError(Exception):
    """Ends the reading of a file at the first chunk that differs; never leaves this module."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _first_difference(content: Content, entry: Entry, store: Store) -> int | None:
    """First chunk that differs; a hole in place of zeros, or the reverse, is no difference."""
    step = 1 << entry.chunk_bits
    for number in sorted(content.changes):
        length = min(step, entry.size - number * step)
        count = chunk_count(entry.size, entry.chunk_bits)
        old = next(filetree.refs(entry.content, count, store.node, number, number + 1))
        if not (is_implied(old, length) and is_implied(content.changes[number], length)):
            return number
    return None


def entry_at(store: Store, snapshot_root: Root, path: bytes) -> tuple[Entry | None, Entry | None]:
    """What a snapshot records at a path: its entry, and that of the file behind a hard link."""
    found, links_root = root.decode_root(store.node(snapshot_root))
    entry: Entry | None = found
    for name in [part for part in path.split(b"/") if part not in (b"", b".")]:
        if entry is None or entry.kind is not Kind.DIRECTORY:
            return None, None
        entry = dirtree.lookup(entry.content, name, store.node)
    if entry is not None and entry.kind is Kind.LINK:
        return entry, dirtree.lookup(links_root, link_key(entry.link_id), store.node)
    return entry, None
