"""Snapshots that have every kind of reference, made by hand together with a list of their objects.

What is implied (holes, zeros of whatever length, what is empty) is stored nowhere, as captures have
it; the list is kept by whoever builds, and knows nothing of walkers.
"""

from __future__ import annotations

import random
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from diffkeeper.format import chunk, dirtree, filetree, root, xattrs
from diffkeeper.format.entry import EMPTY, Entry, Kind, link_key
from diffkeeper.format.ids import Root
from diffkeeper.format.records import SnapshotRecord, VolumeRecord
from diffkeeper.hashing import chunk_digest, node_digest
from diffkeeper.store.batch import ObjectMap
from diffkeeper.store.store import Batch, Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

PAGE = 8_192  # of PostgreSQL
HOLE = b""
STATES = 4  # of `several`


class SnapshotShape:
    """One snapshot. `chunks` and `nodes`: digest to plain bytes of all that it reaches."""

    def __init__(self, seed: int) -> None:
        self.chunks: dict[bytes, bytes] = {}
        self.nodes: dict[bytes, bytes] = {}
        self._random = random.Random(seed)
        entry = self._tree(seed)
        linked = self._links(seed)
        self.root = Root(self.put(root.encode_root(entry, linked)))
        self.bytes = entry.size
        self._forget_unused()

    def put(self, encoded: bytes) -> bytes:
        """Store a node."""
        digest = node_digest(encoded)
        self.nodes[digest] = encoded
        return digest

    @property
    def objects(self) -> dict[bytes, bytes]:
        """Every object that is to be stored, by digest."""
        return {**self.chunks, **self.nodes}

    def file(self, parts: Sequence[bytes], bits: int, tail: int = 0, **metadata: object) -> Entry:
        """A file of these chunks, HOLE among them; `tail`: bytes of a last one that is a hole."""
        digests = [chunk_digest(plain) if plain else chunk.HOLE for plain in parts]
        for digest, plain in zip(digests, parts, strict=True):
            if plain.strip(b"\0"):
                self.chunks[digest] = plain
        size = ((len(parts) - 1) << bits) + (len(parts[-1]) or tail) if parts else 0
        content = filetree.build(digests, len(digests), self.put)
        sparse = HOLE in parts
        return Entry(
            Kind.FILE, mode=0o600, size=size, content=content, chunk_bits=bits, sparse=sparse,
            **metadata,  # type: ignore[arg-type]  # fields of an entry
        )  # fmt: skip

    def directory(self, entries: dict[bytes, Entry], **metadata: object) -> Entry:
        """A directory of these."""
        content = dirtree.apply(EMPTY, entries, self.nodes.__getitem__, self.put)
        size = sum(each.size for each in entries.values())
        return Entry(
            Kind.DIRECTORY, mode=0o755, size=size, content=content,
            **metadata,  # type: ignore[arg-type]  # fields of an entry
        )  # fmt: skip

    def noise(self, size: int) -> bytes:
        """Bytes that no other chunk has."""
        return self._random.randbytes(size)

    def _files(self, seed: int) -> dict[bytes, Entry]:
        whole, small = 1 << 14, 1 << 12
        many = [random.Random(n).randbytes(16) * (small // 16) for n in range(300)]
        many[255] = bytes(small)  # the last reference of a node
        many[7] = self.noise(small)
        holes = [HOLE] * 600
        holes[599], holes[299] = self.noise(100), bytes(small)
        attributes = self.put(xattrs.encode({b"user.a": b"%d" % seed}))
        return {
            b"page of zeros": self.file([bytes(PAGE)], 14),
            b"zeros at the end": self.file([self.noise(whole), bytes(PAGE)], 14),
            b"zeros at both ends": self.file([bytes(whole), self.noise(whole), bytes(3)], 14),
            b"zeros alone": self.file([bytes(whole)] * 3 + [bytes(77)], 14),
            b"zeros that become data": self.file(
                [bytes(whole) if (seed + n) % 2 else self.noise(whole) for n in range(4)], 14
            ),
            b"one byte of zero": self.file([bytes(1)], 16),
            b"empty": self.file([], 14),
            b"a hole": self.file([HOLE], 14, tail=whole),
            b"holes": self.file(holes, 12),
            b"ends in a hole": self.file([self.noise(whole), HOLE], 14, tail=PAGE),
            b"two levels": self.file(many, 12),
            b"two levels that end in zeros": self.file([*many[:299], bytes(55)], 12),
            b"small": self.file([b"small %d" % seed], 14, xattrs=attributes),
            b"other chunks": self.file([self.noise(1 << 16), self.noise(9)], 16),
            b"link": Entry(Kind.LINK, link_id=1),
            b"link to zeros": Entry(Kind.LINK, link_id=2),
            b"symlink": Entry(Kind.SYMLINK, mode=0o777, target=b"small"),
            b"fifo": Entry(Kind.FIFO, mode=0o600),
        }

    def _tree(self, seed: int) -> Entry:
        attributes = self.put(xattrs.encode({b"user.dir": b"same"}))
        crowd = {b"name %d" % n: self.file([b"%d" % (n % 50)], 14) for n in range(200)}
        crowd[b"name 3"] = self.file([b"%d" % seed], 14)
        below = {
            **self._files(seed),
            b"no files": self.directory({}),
            b"crowd": self.directory(crowd, xattrs=attributes),
            b"deep": self.directory({b"er": self.directory(self._files(seed))}),
        }
        return self.directory(below)

    def _links(self, seed: int) -> bytes:
        attributes = self.put(xattrs.encode({b"user.link": b"%d" % seed}))
        linked = {
            link_key(1): self.file([self.noise(1 << 14), self.noise(5)], 14, xattrs=attributes),
            link_key(2): self.file([bytes(PAGE)], 14),
        }
        return dirtree.apply(EMPTY, linked, self.nodes.__getitem__, self.put)

    def _forget_unused(self) -> None:
        """Trees that were built step by step have nodes that nothing refers to any more."""
        named = b"".join(self.nodes.values())
        while unused := [d for d in self.nodes if d != self.root and d not in named]:
            for digest in unused:
                del self.nodes[digest]
            named = b"".join(self.nodes.values())


def several() -> dict[int, SnapshotShape]:
    """Consecutive snapshots of one volume, by their sequence numbers."""
    return {seq: SnapshotShape(seq) for seq in range(1, STATES + 1)}


@contextmanager
def stored(path: Path, states: Mapping[int, SnapshotShape]) -> Iterator[Store]:
    """An open store at this path that has these snapshots, by their sequence numbers."""
    with closing(Store.open(str(path), reserve_bytes=0)) as opened:
        for seq, shape in states.items():
            commit(opened, seq, shape)
        yield opened


def commit(store: Store, seq: int, shape: SnapshotShape, volume: int = 1) -> SnapshotRecord:
    """Store a shape as the snapshot `seq` of a volume, and make it the head."""
    batch = Batch(chunks=ObjectMap(), nodes=ObjectMap())
    for digest, plain in shape.chunks.items():
        batch.chunks[digest] = chunk.encode(plain, 1)
    for digest, plain in shape.nodes.items():
        batch.nodes[digest] = chunk.encode(plain, 1)
    record = SnapshotRecord(
        volume, seq, seq - 1 or None, shape.root, seq, "crash", "manual", 1, shape.bytes, 1,
        1, 0.0, 0.0,
    )  # fmt: skip
    batch.snapshots.append(record)
    batch.volumes.append(
        VolumeRecord(volume, f"v{volume}", 1, head=seq, next_seq=seq + 1, next_link_id=3)
    )
    store.commit(batch)
    return record
