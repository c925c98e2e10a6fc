"""The stat cache: signatures of one volume's files by inode number, stored ones and new ones.

A signature belongs to the content that the tree records, so new ones are stored in the same
transaction as the snapshot that has that content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.format.entry import EMPTY, Kind
from diffkeeper.format.records import IndexRecord
from diffkeeper.store.store import Batch

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from diffkeeper.format.entry import Entry
    from diffkeeper.snapshot.staging import Staging
    from diffkeeper.store.store import Store

SIGNATURES_PENDING_MAX = 500_000
SIGNATURES_EARLY = 20_000  # new ones of a first capture, above which they are stored before its end
SIGNATURES_WINDOW_MAX = 8_192


class StatCache:
    """Signatures of the files of one volume; not thread safe.

    `overflowed`: some files have no signature.
    """

    def __init__(self, store: Store, volume: int, *, overflowed: bool = False) -> None:
        self._store = store
        self._volume = volume
        self._new: dict[int, bytes] = {}  # encoded, which takes a third of the memory
        # Stored signatures that were lately read together: each is asked for again, often more than
        # once, and a transaction for each costs more than the stat.
        self._window: dict[int, IndexRecord | None] = {}
        self.overflowed = overflowed

    def get(self, inode: int) -> IndexRecord | None:
        """The newest signature of an inode, or None."""
        new = self._new.get(inode)
        if new is not None:
            return IndexRecord.decode(new)
        if inode in self._window:
            return self._window[inode]
        return self._store.index(self._volume, inode)

    def get_many(self, inodes: Sequence[int]) -> dict[int, IndexRecord]:
        """The newest signatures of those inodes that have one."""
        found = self._store.index_many(self._volume, inodes)
        if len(self._window) + len(inodes) > SIGNATURES_WINDOW_MAX:
            self._window.clear()
        self._window.update((inode, found.get(inode)) for inode in inodes)
        new = {inode: self._new[inode] for inode in inodes if inode in self._new}
        found.update({inode: IndexRecord.decode(encoded) for inode, encoded in new.items()})
        return found

    def put(self, inode: int, record: IndexRecord) -> None:
        """Set the signature that the next commit stores.

        Beyond the bound on memory it is dropped: such a file is read again when in doubt.
        """
        if len(self._new) < SIGNATURES_PENDING_MAX:
            self._new[inode] = record.encode()
        else:
            self.overflowed = True

    def store_early(self, stage: Staging) -> None:
        """Store new signatures before the commit, if there are many; the objects that they name
        first.

        Only for a volume without a snapshot: nothing is recorded for it yet, so no signature proves
        anything, and all are dropped when its next first capture begins.
        """
        if len(self._new) < SIGNATURES_EARLY:
            return
        stage.relieve(bytes_max=0)
        put = {(self._volume, inode): encoded for inode, encoded in self._new.items()}
        self._store.commit(Batch(index_put=put))
        self.clear()

    def is_new(self, inode: int) -> bool:
        """Whether a signature waits for the next commit."""
        return inode in self._new

    def has_directory(self, inode: int, parent: int, name: bytes, content: bytes) -> bool:
        """Whether the directory with this inode number was recorded at this place, with this
        content.
        """
        return self.get(inode) == directory_signature(parent, name, content)

    def put_directory(self, inode: int, parent: int, name: bytes, content: bytes) -> None:
        """Record place and content of a directory, if they changed."""
        if not self.has_directory(inode, parent, name, content):
            self._new[inode] = directory_signature(parent, name, content).encode()

    def drop_directory(self, inode: int) -> None:
        """Drop what was seen in a directory that left the tree in memory.

        New signatures of its files may be newer than what the tree records, so they are invalid.
        """
        record = self.get(inode)
        if record is not None and record.kind == Kind.DIRECTORY:
            self._new[inode] = directory_signature(0, b"", EMPTY).encode()

    def add_to(self, batch: Batch, stage: Staging) -> list[int]:
        """Add all new signatures to the batch of a commit; returns inodes that were left out.

        The content of a file that was scanned and then removed is not stored: its signature would
        refer to chunks that do not exist.
        """
        left_out: list[int] = []
        contents = {n: IndexRecord.decode(encoded).content for n, encoded in self._new.items()}
        gone = stage.given_up(contents.values(), batch)
        for inode, encoded in self._new.items():
            if contents[inode] in gone:
                left_out.append(inode)
            else:
                batch.index_put[self._volume, inode] = encoded
        return left_out

    def __len__(self) -> int:
        return len(self._new)

    def clear(self) -> None:
        """Drop the new signatures: they were stored, or what they describe was dropped."""
        self._new.clear()
        self._window.clear()


def directory_signature(parent: int, name: bytes, content: bytes) -> IndexRecord:
    """A directory's place and content; its inode number is the key. The root has parent 0, no name.

    Signatures of files name their directory by inode number, so they are valid only while this is
    known to be the directory that was recorded at its place. Two directories may have taken turns
    there: then the content tells which of them the tree records.
    """
    return IndexRecord(
        kind=int(Kind.DIRECTORY), size=0, mtime_ns=0, ctime_ns=0, seen_ns=0,
        content=content, parent_ino=parent, name=name,
    )  # fmt: skip


def file_signature(
    status: os.stat_result, entry: Entry, seen_ns: int, place: tuple[int, bytes], link_id: int = 0
) -> IndexRecord:
    """The signature of a file that has the content of `entry`.

    seen_ns: see `IndexRecord`; `place`: inode number of the directory, and name; `link_id`: for a
    file with several names, else 0.
    """
    parent, name = place
    return IndexRecord(
        kind=int(entry.kind),
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        seen_ns=seen_ns,
        link_id=link_id,
        content=entry.content,
        parent_ino=parent,
        name=name,
    )
