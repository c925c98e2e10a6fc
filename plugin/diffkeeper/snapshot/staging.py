"""Objects of a snapshot in the making, before they are stored.

They wait uncompressed, and are compressed many together when they are stored: what a later round
replaces is never compressed. When the stage exceeds its bound, its objects are stored in a
transaction of their own; they are unreachable until the snapshot commits, and garbage if it never
does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper import failpoint, limits
from diffkeeper.errors import DiffKeeperError
from diffkeeper.format import merkle, pack
from diffkeeper.format.ids import ObjectId, Root
from diffkeeper.hashing import node_digest
from diffkeeper.store.store import Batch, Store

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from diffkeeper.snapshot.chunker import Content


class Staging:
    """New chunks and nodes of one volume; not thread safe."""

    def __init__(self, store: Store, level: int | None) -> None:
        self._store = store
        self._level = level
        self._chunks: dict[bytes, bytes] = {}
        self._nodes: dict[bytes, bytes] = {}
        self._bytes = 0
        self.bytes_max = limits.BATCH_BYTES_MAX
        self.new_bytes = 0
        self.stored_bytes = 0

    def get(self, digest: bytes) -> bytes:
        """A node by its digest, staged or stored."""
        return self._nodes.get(digest) or self._store.node(digest)

    def put(self, encoded: bytes) -> bytes:
        """Stage a node; returns its digest."""
        digest = node_digest(encoded)
        if digest not in self._nodes:
            self._nodes[digest] = encoded
            self._bytes += len(encoded)
        return digest

    def add_chunks(self, plain: Mapping[bytes, bytes]) -> None:
        """Stage the chunks that are neither staged nor stored; digest to content."""
        absent = self._store.missing([d for d in plain if d not in self._chunks])
        for digest, content in plain.items():  # this order: similar chunks are adjacent
            if digest in absent:
                self._chunks[digest] = content
                self._bytes += len(content)
                self.new_bytes += len(content)

    def adopt_file(self, content: Content) -> None:
        """Take the data of a large file while the file is still being read."""
        self.add_chunks(content.data)
        content.data.clear()
        content.data_bytes = 0
        content.fold(self.get, self.put)
        try:
            self.relieve()
        except OSError as error:
            # An error of the store must not be taken for one of the file that is being read.
            raise DiffKeeperError(f"the store cannot be written: {error}") from error

    def given_up(self, digests: Iterable[bytes], batch: Batch) -> set[bytes]:
        """Of these digests, those of objects that wait here and are neither in the batch nor in the
        store.

        A file's previous content may wait here although it is stored, since nodes are staged
        without asking.
        """
        held = batch.holds()
        waiting = {d for d in digests if (d in self._chunks or d in self._nodes) and d not in held}
        return self._store.unknown(waiting) if waiting else waiting

    def relieve(self, bytes_max: int | None = None) -> None:
        """Store the staged objects if they exceed the bound on memory, or `bytes_max`."""
        if self._bytes > (self.bytes_max if bytes_max is None else bytes_max):
            batch = self._batch(self._chunks, self._nodes)
            self._store.commit(batch)
            failpoint.hit("store.objects_flushed")
            self.clear()

    def batch(self, roots: list[Root]) -> Batch:
        """The staged objects that the snapshots' `roots` reach; the others were superseded."""
        reached: set[bytes] = set()
        nodes: dict[bytes, bytes] = {}
        pending = [merkle.snapshot_root(root) for root in roots]
        while pending:
            ref = pending.pop()
            if not ref.is_node:
                reached.add(ref.digest)
            elif ref.digest in self._nodes and ref.digest not in nodes:
                nodes[ref.digest] = self._nodes[ref.digest]
                pending.extend(merkle.references(ref, nodes[ref.digest]))
        chunks = {digest: plain for digest, plain in self._chunks.items() if digest in reached}
        return self._batch(chunks, nodes)

    def clear(self) -> None:
        """Drop all staged objects; the counts of the snapshot stay."""
        self._chunks.clear()
        self._nodes.clear()
        self._bytes = 0

    def reset_counts(self) -> None:
        """Start the counts of the next snapshot."""
        self.new_bytes = self.stored_bytes = 0

    def _batch(self, chunks: Mapping[bytes, bytes], nodes: Mapping[bytes, bytes]) -> Batch:
        """Frames of both, without nodes that are stored already: those are staged without
        asking.
        """
        builder = pack.Builder(self._level)
        for digest, plain in chunks.items():
            builder.add(ObjectId.chunk(digest), plain)
        frames = builder.finish()
        new = self._store.unknown(nodes)
        for digest, encoded in nodes.items():
            if digest in new:
                builder.add(ObjectId.node(digest), encoded)
        frames += builder.finish()
        self.stored_bytes += builder.stored_bytes
        return Batch(frames=frames)
