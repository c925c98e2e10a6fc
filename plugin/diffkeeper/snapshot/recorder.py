"""Makes entries and stat signatures from observations."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from msgspec import structs

from diffkeeper.format import xattrs
from diffkeeper.format.entry import Entry, Kind
from diffkeeper.snapshot.entries import KINDS, entry_of
from diffkeeper.snapshot.stat_cache import file_signature

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffkeeper.format.records import IndexRecord
    from diffkeeper.snapshot.chunker import Content
    from diffkeeper.snapshot.observation import Observation
    from diffkeeper.snapshot.staging import Staging
    from diffkeeper.snapshot.stat_cache import StatCache
    from diffkeeper.snapshot.worktree import Worktree

    Noted = Callable[[int, IndexRecord | None, IndexRecord], None]


class Recorder:
    """Makes the entries of one volume; their chunks must have been staged before.

    `noted` is called for every file: inode number, previous signature, new signature.
    `next_link_id`: as the volume's record has it, the newest id of a file with several names.
    """

    def __init__(self, stage: Staging, index: StatCache, noted: Noted, next_link_id: int) -> None:
        self._stage = stage
        self._index = index
        self._noted = noted
        self.next_link_id = next_link_id

    def entry(self, seen: Observation, tree: Worktree) -> Entry | None:
        """The entry for an observed name; None where it does not exist."""
        status = seen.status
        if status is None:
            return None
        kind = KINDS[stat.S_IFMT(status.st_mode)]
        attributes = seen.attributes
        kept = self._stage.put(xattrs.encode(attributes)) if attributes else b""
        entry = entry_of(status, kind, kept, seen.target)
        if seen.content is not None:
            entry = self._with_content(entry, seen.content)
        link_id = 0
        if status.st_nlink > 1:
            link_id = self._link_id(status.st_ino)
            tree.set_link(link_id, entry)
            tree.add_link_name(link_id, seen.directory, seen.name)
        place = seen.directory.inode, seen.name
        # A file with a problem gets no proof, so that the problem is recorded again.
        seen_ns = seen.seen_ns if seen.trouble is None else 0
        signature = file_signature(status, entry, seen_ns, place, link_id)
        self._noted(status.st_ino, self._index.get(status.st_ino), signature)
        self._index.put(status.st_ino, signature)
        return Entry(Kind.LINK, link_id=link_id) if link_id else entry

    def _with_content(self, entry: Entry, content: Content) -> Entry:
        content.data.clear()
        content.data_bytes = 0
        return structs.replace(
            entry,
            size=content.size,
            content=content.fold(self._stage.get, self._stage.put),
            chunk_bits=content.chunk_bits,
            sparse=content.sparse,
        )

    def _link_id(self, number: int) -> int:
        record = self._index.get(number)
        if record is not None and record.link_id:
            return record.link_id
        self.next_link_id += 1
        return self.next_link_id
