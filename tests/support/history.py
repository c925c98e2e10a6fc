"""A volume's history made by hand: snapshots of files, without a live directory."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from diffkeeper.format import chunk, dirtree, filetree, merkle, root
from diffkeeper.format.entry import EMPTY, Entry, Kind, chunk_count
from diffkeeper.format.ids import Root, SnapshotId
from diffkeeper.format.records import SnapshotRecord, VolumeRecord
from diffkeeper.hashing import chunk_digest
from diffkeeper.store.batch import ObjectMap
from diffkeeper.store.store import Batch, Store
from tests.support.stored import nodes_into

if TYPE_CHECKING:
    from collections.abc import Iterator

BITS = 12
CHUNK = 1 << BITS
Files = dict[bytes, bytes]


def page(source: random.Random) -> bytes:
    """A chunk that compresses to about a half."""
    return source.randbytes(CHUNK // 2) + bytes(CHUNK // 2)


def states(count: int, seed: int = 1, chunks: int = 300) -> Iterator[Files]:
    """States of a volume: in a large file some bytes of some chunks change, small files change."""
    source = random.Random(seed)
    large = [page(source) for _ in range(chunks)]
    for number in range(count):
        yield {b"large": b"".join(large), b"small%d" % (number % 3): b"%d" % number, b"same": b"x"}
        for at in source.sample(range(chunks), chunks // 10):
            place = source.randrange(CHUNK - 8)
            large[at] = large[at][:place] + source.randbytes(8) + large[at][place + 8 :]
        large[source.randrange(chunks)] = page(source)


def commit(store: Store, seq: int, files: Files, volume: int = 1) -> None:
    """Store a state as the volume's snapshot `seq`, and make it the head."""
    batch = Batch(chunks=ObjectMap())
    entries: dict[bytes, Entry | None] = {}
    for name, content in files.items():
        refs = [content[at : at + CHUNK] for at in range(0, len(content), CHUNK)]
        for plain in refs:
            batch.chunks[chunk_digest(plain)] = chunk.encode(plain, 1)
        top = filetree.build(map(chunk_digest, refs), len(refs), nodes_into(batch))
        entries[name] = Entry(Kind.FILE, size=len(content), content=top, chunk_bits=BITS)
    content = dirtree.apply(EMPTY, entries, store.node, nodes_into(batch))
    top = nodes_into(batch)(root.encode_root(Entry(Kind.DIRECTORY, content=content), EMPTY))
    record = SnapshotRecord(
        volume, seq, seq - 1 or None, Root(top), seq, "crash", "x", 1, 1, 1, 1, 0.0, 0.0
    )
    batch.snapshots.append(record)
    batch.volumes.append(VolumeRecord(volume, f"v{volume}", 1, head=seq, next_seq=seq + 1))
    store.commit(batch)


def files_of(store: Store, seq: int, volume: int = 1) -> Files:
    """What a snapshot holds."""
    entry, _ = root.decode_root(store.node(store.snapshot(volume, seq).root))
    found: Files = {}
    for name, file in dirtree.entries(entry.content, store.node):
        refs = filetree.refs(file.content, chunk_count(file.size, BITS), store.node)
        found[name] = b"".join(map(store.chunk, refs))
    return found


def content_of(store: Store, seq: int, name: bytes, volume: int = 1) -> bytes:
    """The root of a file's tree in a snapshot."""
    entry, _ = root.decode_root(store.node(store.snapshot(volume, seq).root))
    return dict(dirtree.entries(entry.content, store.node))[name].content


def chunks_of(store: Store, seq: int, name: bytes, volume: int = 1) -> set[bytes]:
    """Digests of a file's chunks in a snapshot."""
    entry, _ = root.decode_root(store.node(store.snapshot(volume, seq).root))
    file = dict(dirtree.entries(entry.content, store.node))[name]
    return set(filetree.refs(file.content, chunk_count(file.size, BITS), store.node))


def reachable(store: Store) -> set[bytes]:
    """Digests of all objects that some snapshot reaches."""
    found: set[bytes] = set()
    tops = [s.root for v in store.volumes() for s in store.snapshots(v.id)]
    stack = [merkle.snapshot_root(top) for top in tops]
    while stack:
        ref = stack.pop()
        if ref.digest not in found:
            found.add(ref.digest)
            if ref.is_node:
                stack.extend(merkle.references(ref, store.node(ref.digest)))
    return found


def forget(store: Store, *seqs: int, volume: int = 1) -> None:
    """Forget snapshots."""
    store.commit(Batch(snapshots_del={SnapshotId(volume, seq) for seq in seqs}))
