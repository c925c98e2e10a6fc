"""Removes signatures of files that no longer exist, so that they do not accumulate.

A reused inode number overwrites the old signature; on btrfs and tmpfs none is reused. A signature
is stale when the directory that it names does not record the file any more. Signatures are hints:
removing one too many costs reading the file again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper import clock
from diffkeeper.errors import CorruptionError, NotFoundError
from diffkeeper.format import dirtree, root
from diffkeeper.format.entry import EMPTY, Entry, Kind, link_key

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from diffkeeper.format.records import IndexRecord
    from diffkeeper.store.store import Store

SIGNATURES_SECONDS = 600.0  # between two counts of the stored signatures
SIGNATURES_STALE_MIN = 10_000  # stale ones that are tolerated, in each volume


class StatCacheExpiry:
    """Expiry of the stored signatures of all volumes. One thread at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[int, int] = {}  # volume id to how many the last pass left
        self._counted_at = clock.monotonic()

    def steps(self) -> Iterator[None]:
        """In short steps, remove stale signatures from volumes that have more than twice as many as
        useful ones.
        """
        if clock.monotonic() - self._counted_at < SIGNATURES_SECONDS:
            return
        self._counted_at = clock.monotonic()
        volumes = self._store.volumes()
        known = {volume.id for volume in volumes}
        self._kept = {number: kept for number, kept in self._kept.items() if number in known}
        for volume in volumes:
            count = yield from self._count(volume.id)
            kept = self._kept.get(volume.id)
            if kept is None:
                kept = self._files(volume.id)  # most signatures are of files
            if count > 2 * kept + SIGNATURES_STALE_MIN:
                self._kept[volume.id] = yield from self._pass(volume.id)

    def _count(self, volume_id: int) -> Generator[None, None, int]:
        count, at = 0, 0
        while page := self._store.index_numbers(volume_id, at):
            count, at = count + len(page), page[-1] + 1
            yield
        return count

    def _pass(self, volume_id: int) -> Generator[None, None, int]:
        """Look at every signature of a volume; generator that returns how many stay."""
        kept = at = 0
        while numbers := self._store.index_numbers(volume_id, at):
            page = self._store.index_many(volume_id, numbers)
            # The tree is read after the page of signatures, so it is as new, or newer.
            links_root, content = self._newest(volume_id)
            parents = self._store.index_many(volume_id, {each.parent_ino for each in page.values()})
            stale = {
                number: record
                for number, record in page.items()
                if not self._is_of_use(record, parents, links_root, content)
            }
            if stale:
                self._store.forget_signatures(volume_id, stale)
            kept, at = kept + len(page) - len(stale), numbers[-1] + 1
            yield
        return kept

    def _files(self, volume_id: int) -> int:
        newest = next(self._store.snapshots(volume_id, reverse=True), None)
        return newest.files if newest is not None else 0

    def _newest(self, volume_id: int) -> tuple[bytes, bytes]:
        """Roots of the links tree and of the top directory, in the newest snapshot."""
        newest = next(self._store.snapshots(volume_id, reverse=True), None)
        if newest is None:
            return EMPTY, EMPTY
        try:
            top, links_root = root.decode_root(self._store.node(newest.root))
        except (CorruptionError, NotFoundError):
            return EMPTY, EMPTY
        return links_root, top.content

    def _is_of_use(
        self, record: IndexRecord, parents: dict[int, IndexRecord], links_root: bytes, top: bytes
    ) -> bool:
        try:
            if record.link_id:  # any of its names may be the recorded one
                return self._found(links_root, link_key(record.link_id)) is not None
            if not record.parent_ino:
                return record.content == top
            parent = parents.get(record.parent_ino)
            if parent is None or parent.kind != Kind.DIRECTORY:
                return False
            return _is_of(record, self._found(parent.content, record.name))
        except (CorruptionError, NotFoundError):
            return True  # damage is for the scrub to report

    def _found(self, directory: bytes, name: bytes) -> Entry | None:
        return dirtree.lookup(directory, name, self._store.node)


def _is_of(record: IndexRecord, entry: Entry | None) -> bool:
    return entry is not None and (entry.kind, entry.content) == (record.kind, record.content)
