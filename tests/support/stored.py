"""What tests put into a store by hand, and what they ask of it that nothing else does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.format import chunk
from diffkeeper.format.ids import ObjectId
from diffkeeper.hashing import node_digest
from diffkeeper.replay.object_source import StoreObjects

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffkeeper.format.node import Put
    from diffkeeper.format.records import IndexRecord
    from diffkeeper.store.store import Batch, Store


def nodes_into(batch: Batch) -> Put:
    """What tree builders call: adds a plain node to the batch, and returns its digest."""

    def put(encoded: bytes) -> bytes:
        digest = node_digest(encoded)
        if digest not in batch.nodes:
            batch.nodes[digest] = chunk.encode(encoded)
        return digest

    return put


class ExportedObjects(StoreObjects):
    """The objects of a store, also in the encoding that an export takes."""

    def stored_chunks(self, digests: list[bytes]) -> list[bytes]:
        """Chunks, in order."""
        return [self._store.stored(ObjectId.chunk(digest)) for digest in digests]


def signatures(store: Store, volume_id: int) -> Iterator[tuple[int, IndexRecord]]:
    """Inode number and signature of all files of a volume that have one, by inode number."""
    at = 0
    while numbers := store.index_numbers(volume_id, at):
        found = store.index_many(volume_id, numbers)
        yield from ((number, found[number]) for number in numbers)
        at = numbers[-1] + 1


def thread_written_bytes() -> int:
    """Bytes that the calling thread has written so far; 0 where the kernel does not count them."""
    try:
        with open("/proc/thread-self/io", "rb") as file:
            fields = dict(line.split(b": ") for line in file.read().splitlines())
    except OSError:
        return 0
    return int(fields.get(b"wchar", 0))
