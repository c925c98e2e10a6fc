"""Archives of a volume's history: what comes back, and what any other bytes do."""

from __future__ import annotations

import os
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffkeeper import limits
from diffkeeper.errors import ConflictError, CorruptionError, DiffKeeperError, FormatVersionError
from diffkeeper.format import archive, chunk, dirnode, dirtree, entry, filetree, root
from diffkeeper.format.archive import ArchiveEncoder, ArchiveFrame, Decoder, FrameKind
from diffkeeper.format.ids import Root
from diffkeeper.format.records import SnapshotRecord, VolumeRecord
from diffkeeper.hashing import chunk_digest
from diffkeeper.replay import tree_size
from diffkeeper.replay.object_source import StoreObjects
from diffkeeper.space.reachable import Walk
from diffkeeper.store.store import Batch, Store
from diffkeeper.store.tables import FORMAT_VERSION
from diffkeeper.transfer import archive_read
from diffkeeper.transfer.archive_read import IMPORT_BATCH_BYTES, Imported, Importer
from diffkeeper.transfer.archive_write import Exporter
from tests.support.stored import ExportedObjects, nodes_into

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VOLUME = VolumeRecord(1, "v", 5, {"interval": "1s"}, head=2, next_seq=3, next_link_id=9)
BITS = 12
FRAMES = st.lists(
    st.tuples(st.sampled_from([FrameKind.CHUNK, FrameKind.NODE, FrameKind.SNAPSHOT]), st.binary()),
    max_size=5,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with a volume of two snapshots: files, a tree of chunks, zeros, holes, a link."""
    made = Store.open(str(tmp_path_factory.mktemp("store") / "s"))
    batch = Batch(volumes=[VOLUME])
    for seq in (1, 2):
        batch.snapshots.append(_snapshot(batch, seq))
    made.commit(batch)
    yield made
    made.close()


def _file(batch: Batch, chunks: list[bytes], tail: int = 0) -> entry.Entry:
    """A file of these chunks (b"": a hole); zeros are stored nowhere."""
    step = 1 << BITS
    size = (len(chunks) - 1) * step + (tail or len(chunks[-1]) or step)
    digests = []
    for plain in chunks:
        digests.append(chunk_digest(plain) if plain else chunk.HOLE)
        if plain and plain.strip(b"\0"):
            batch.chunks[digests[-1]] = chunk.encode(plain)
    content = filetree.build(digests, len(digests), nodes_into(batch))
    kind = entry.Kind.FILE
    return entry.Entry(kind, mode=0o644, size=size, content=content, chunk_bits=BITS)


def _snapshot(batch: Batch, seq: int) -> SnapshotRecord:
    step = 1 << BITS
    many = [bytes([seq, n % 7]) * (step // 2) for n in range(600)]
    many[300] = b"%d" % seq * step
    files: dict[bytes, entry.Entry | None] = {
        b"many": _file(batch, many),
        b"small": _file(batch, [b"small %d" % seq]),
        b"zeros": _file(batch, [bytes(step), bytes(step), bytes(77)]),
        b"holes": _file(batch, [b"", b"x" * step, b"", bytes(11)]),
        b"linked": entry.Entry(entry.Kind.LINK, link_id=12),
    }
    files |= {b"f%d" % n: _file(batch, [b"same"]) for n in range(200)}

    def get(digest: bytes) -> bytes:
        return chunk.decode(batch.nodes[digest], limits.NODE_BYTES_MAX)

    content = dirtree.apply(entry.EMPTY, files, get, nodes_into(batch))
    linked = {entry.link_key(12): _file(batch, [b"linked"])}
    links = dirtree.apply(entry.EMPTY, dict(linked), get, nodes_into(batch))
    top = entry.Entry(entry.Kind.DIRECTORY, mode=0o755, content=content)
    digest = nodes_into(batch)(root.encode_root(top, links))
    parent = seq - 1 or None
    return SnapshotRecord(
        1, seq, parent, Root(digest), seq, "crash", "manual", 1, 1, 1, 1, 0.0, 0.0
    )


def exported(store: Store) -> bytes:
    out = bytearray()
    exporter = Exporter(ExportedObjects(store), out.extend, lambda _bytes, _objects: None)
    exporter.begin(VOLUME, FORMAT_VERSION)
    for record in store.snapshots(1):
        exporter.snapshot(record)
    exporter.tag("good", 1)
    exporter.end()
    return bytes(out)


def imported(target: Store, data: bytes, step: int = 1 << 20) -> Imported:
    importer = Importer(target)
    for at in range(0, len(data), step):
        importer.feed(data[at : at + step])
    return importer.finish()


def frames(data: bytes) -> list[ArchiveFrame]:
    decoder = Decoder(FORMAT_VERSION)
    found = list(decoder.feed(data))
    decoder.finish()
    return found


def packed(contents: list[ArchiveFrame]) -> bytes:
    """An archive of these frames, with digests and trailer that are right."""
    encoder = ArchiveEncoder()
    parts = [encoder.preface(FORMAT_VERSION)]
    parts += [encoder.frame(f.kind, f.payload) for f in contents if f.kind is not FrameKind.END]
    return b"".join([*parts, encoder.end()])


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Store]:
    made = Store.open(str(tmp_path / "other"))
    yield made
    made.close()


@pytest.mark.parametrize("step", [7, 4096, 1 << 30])
def test_everything_comes_back(store: Store, empty: Store, step: int) -> None:
    found = imported(empty, exported(store), step)
    assert found.snapshots == list(store.snapshots(1))
    assert found.tags == {"good": 1}
    assert found.volume == replace(VOLUME, next_link_id=13)
    assert list(empty.volumes()) == []
    for record in found.snapshots:
        walk = Walk(StoreObjects(empty).nodes)
        met = list(walk.objects(record.root))
        assert len(met) > 30
        for each in met:
            if not each.is_node:
                assert len(empty.chunk(each.digest)) == each.length


def test_an_object_is_sent_once_and_after_what_it_needs(store: Store) -> None:
    digests = [f.payload[:32] for f in frames(exported(store)) if f.kind in (FrameKind.CHUNK, 3)]
    assert len(digests) == len(set(digests))
    reached = set()
    for record in store.snapshots(1):
        walk = Walk(StoreObjects(store).nodes)
        reached |= {each.digest for each in walk.objects(record.root)}
    assert set(digests) == reached


def test_any_missing_object_is_noticed(store: Store, tmp_path: Path) -> None:
    whole = frames(exported(store))
    numbers = [n for n, f in enumerate(whole) if f.kind in (FrameKind.CHUNK, FrameKind.NODE)]
    for number in numbers:
        target = Store.open(str(tmp_path / str(number)))
        with pytest.raises(CorruptionError, match="which did not come before"):
            imported(target, packed(whole[:number] + whole[number + 1 :]))
        target.close()


def test_what_a_trailer_or_an_order_is_wrong_in(store: Store, empty: Store) -> None:
    whole = frames(exported(store))
    newest = whole[-2]
    for bad in (whole[:1], whole[1:], [whole[0], *whole], [*whole[:-1], newest]):
        with pytest.raises(CorruptionError):
            imported(empty, packed(bad))
    with pytest.raises(FormatVersionError):
        imported(empty, archive.PREFACE.pack(archive.ARCHIVE_MAGIC, 9, 1))


def test_a_bomb_is_refused_before_it_is_unpacked(empty: Store) -> None:
    plain = bytes(256 << 20)
    bomb = chunk_digest(b"") + chunk.encode(plain)
    small = ArchiveFrame(FrameKind.CHUNK, bomb)
    del plain
    data = packed([ArchiveFrame(FrameKind.VOLUME, VOLUME.encode()), small])
    tracemalloc.start()
    with pytest.raises(CorruptionError, match="declares"):
        imported(empty, data)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_memory_does_not_grow_with_the_archive(empty: Store) -> None:
    importer = Importer(empty)
    encoder = ArchiveEncoder()
    importer.feed(encoder.preface(FORMAT_VERSION))
    importer.feed(encoder.frame(FrameKind.VOLUME, VOLUME.encode()))
    tracemalloc.start()
    for _ in range(80):
        plain = os.urandom(limits.CHUNK_BYTES_MAX)
        payload = chunk_digest(plain) + chunk.encode(plain, None)
        importer.feed(encoder.frame(FrameKind.CHUNK, payload))
    assert tracemalloc.get_traced_memory()[1] < 4 * IMPORT_BATCH_BYTES
    tracemalloc.stop()


def test_a_frame_that_is_too_long_is_not_waited_for() -> None:
    decoder = Decoder(FORMAT_VERSION)
    start = ArchiveEncoder().preface(FORMAT_VERSION) + archive.FRAME.pack(FrameKind.VOLUME, 1 << 31)
    with pytest.raises(CorruptionError, match="too many"):
        list(decoder.feed(start))


@given(st.binary(max_size=400), st.integers(1, 50))
def test_any_bytes_are_frames_or_an_error(data: bytes, step: int) -> None:
    decoder = Decoder(FORMAT_VERSION)
    preface = ArchiveEncoder().preface(FORMAT_VERSION)
    for whole in (data, preface + data):
        decoder = Decoder(FORMAT_VERSION)
        try:
            for at in range(0, len(whole), step):
                list(decoder.feed(whole[at : at + step]))
            decoder.finish()
        except (CorruptionError, FormatVersionError):
            continue
        raise AssertionError("bytes without a trailer are no archive")


@given(FRAMES, st.integers(1, 100))
def test_frames_come_back_in_any_pieces(contents: list[tuple[FrameKind, bytes]], step: int) -> None:
    wanted = [ArchiveFrame(FrameKind.VOLUME, b"v"), *(ArchiveFrame(k, p) for k, p in contents)]
    data = packed(wanted)
    decoder = Decoder(FORMAT_VERSION)
    found: list[ArchiveFrame] = []
    for at in range(0, len(data), step):
        found += decoder.feed(data[at : at + step])
    decoder.finish()
    assert found[:-1] == wanted


@given(data=FRAMES)
def test_frames_of_any_content_are_refused(
    store: Store, data: list[tuple[FrameKind, bytes]]
) -> None:
    importer = Importer(store)
    whole = packed(
        [ArchiveFrame(FrameKind.VOLUME, VOLUME.encode()), *(ArchiveFrame(k, p) for k, p in data)]
    )
    with pytest.raises(DiffKeeperError):
        importer.feed(whole)
        importer.finish()


@given(data=st.data())
def test_one_changed_byte_or_a_cut_is_noticed(store: Store, data: st.DataObject) -> None:
    whole = exported(store)
    place = data.draw(st.integers(0, len(whole) - 1))
    flip = data.draw(st.integers(1, 255))
    for bad in (whole[:place], whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :]):
        decoder = Decoder(FORMAT_VERSION)
        with pytest.raises((CorruptionError, FormatVersionError)):
            list(decoder.feed(bad))
            decoder.finish()


def test_a_tree_of_shared_directories_is_counted(store: Store, empty: Store) -> None:
    """Ten nodes that stand for 64**10 files, or for as many directories without a file."""
    for bottom in (entry.Entry(entry.Kind.FIFO), entry.Entry(entry.Kind.DIRECTORY)):
        batch = Batch()
        below, nodes = bottom, []
        for _ in range(10):
            names = {b"%02d" % n: entry.encode_entry(below) for n in range(64)}
            nodes.append(nodes_into(batch)(dirnode.encode_leaf(names)))
            below = entry.Entry(entry.Kind.DIRECTORY, content=nodes[-1])
        contents = [frames(exported(store))[0]]
        contents += [ArchiveFrame(FrameKind.NODE, node + batch.nodes[node]) for node in nodes]
        with pytest.raises(ConflictError, match="more than 100000000 names"):
            imported(empty, packed(contents))


@pytest.mark.parametrize(("level", "directories"), [(4, 0), (8, 0), (3, 2)])
def test_a_file_of_shared_nodes_is_counted(
    store: Store, empty: Store, level: int, directories: int
) -> None:
    """A few nodes that stand for 256**4 chunks and more, or for as many in files of 256**3."""
    batch, nodes = Batch(), []
    plain = b"x" * (1 << BITS)
    below, size = chunk_digest(plain), 1 << BITS
    for each in range(1, level + 1):
        refs = [below] * limits.FILE_NODE_FANOUT
        below, size = nodes_into(batch)(filetree._encode(each, refs)), size * len(refs)
        nodes.append(below)
    found = entry.Entry(entry.Kind.FILE, size=size, content=below, chunk_bits=BITS)
    for _ in range(directories):
        names = {b"%02d" % n: entry.encode_entry(found) for n in range(64)}
        nodes.append(nodes_into(batch)(dirnode.encode_leaf(names)))
        found = entry.Entry(entry.Kind.DIRECTORY, content=nodes[-1])
    contents = [
        frames(exported(store))[0],
        ArchiveFrame(FrameKind.CHUNK, chunk_digest(plain) + chunk.encode(plain)),
        *(ArchiveFrame(FrameKind.NODE, node + batch.nodes[node]) for node in nodes),
    ]
    data = packed(contents)
    assert len(data) < 4096
    with pytest.raises(ConflictError, match="more than 1073741824 chunks"):
        imported(empty, data)


@pytest.mark.parametrize(
    ("what", "most"),
    [
        ("names", 1 + 205 + 1),  # the root, the names in it, what the links share
        ("chunks", 600 + 1 + 3 + 2 + 200 + 1),  # zeros count, holes do not
    ],
)
def test_the_count_is_exact_whatever_is_forgotten(
    store: Store, empty: Store, monkeypatch: pytest.MonkeyPatch, what: str, most: int
) -> None:
    bound = f"IMPORT_{what.upper()}_MAX"
    monkeypatch.setattr(limits, "WALK_WINDOW_MAX", 2)
    monkeypatch.setattr(tree_size, bound, most)
    assert imported(empty, exported(store)).objects
    monkeypatch.setattr(tree_size, bound, most - 1)
    with pytest.raises(ConflictError, match=f"more than {most - 1} {what}"):
        imported(empty, exported(store))


def test_records_are_bounded(store: Store, empty: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = frames(exported(store))
    size = sum(len(f.payload) for f in contents if f.kind is FrameKind.SNAPSHOT)
    monkeypatch.setattr(archive_read, "IMPORT_RECORDS_BYTES_MAX", size)
    assert len(imported(empty, packed(contents)).snapshots) == 2
    monkeypatch.setattr(archive_read, "IMPORT_RECORDS_BYTES_MAX", size - 1)
    with pytest.raises(ConflictError, match=f"more than {size - 1} bytes together"):
        imported(empty, packed(contents))
