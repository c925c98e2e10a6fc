"""Whoever follows references meets exactly the objects that are stored, on trees of every shape."""

from __future__ import annotations

import io
import re
import tarfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import diffkeeper
from diffkeeper.errors import CorruptionError
from diffkeeper.format import merkle
from diffkeeper.format.archive import ArchiveEncoder, Decoder, FrameKind
from diffkeeper.format.entry import EMPTY, Kind
from diffkeeper.format.ids import ObjectId, ObjectKind, Root, SnapshotId
from diffkeeper.format.node import node_type
from diffkeeper.format.records import IndexRecord
from diffkeeper.format.root import encode_root
from diffkeeper.hashing import chunk_digest
from diffkeeper.integrity.missing import MissingObjects
from diffkeeper.integrity.scrub import Scrubber
from diffkeeper.integrity.verify import Verifier
from diffkeeper.replay.object_source import StoreObjects
from diffkeeper.replay.tarball import Tarball
from diffkeeper.snapshot.chunker import Chunker
from diffkeeper.snapshot.staging import Staging
from diffkeeper.space.maintenance import Maintenance
from diffkeeper.space.reachable import Walk
from diffkeeper.space.usage import UsageWalk
from diffkeeper.store.store import Batch, Store
from diffkeeper.store.tables import FORMAT_VERSION
from diffkeeper.transfer.archive_read import Importer
from diffkeeper.transfer.archive_write import Exporter
from tests.support import shapes
from tests.support.capture_rig import CaptureRig
from tests.support.stored import ExportedObjects

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def states() -> dict[int, shapes.SnapshotShape]:
    return shapes.several()


@pytest.fixture
def store(tmp_path: Path, states: dict[int, shapes.SnapshotShape]) -> Iterator[Store]:
    with shapes.stored(tmp_path / "store", states) as opened:
        yield opened


@pytest.fixture
def reader() -> Iterator[Chunker]:
    with closing(Chunker()) as made:
        yield made


def stored(store: Store) -> set[bytes]:
    found: set[bytes] = set()
    with store._environment.read() as txn:
        for number in store.repack.packs():
            directory = store.objects.directory(txn, number)
            assert directory is not None
            found.update(directory.digests())
    return found


def everything(states: dict[int, shapes.SnapshotShape]) -> dict[bytes, bytes]:
    return {d: plain for shape in states.values() for d, plain in shape.objects.items()}


def test_references(states: dict[int, shapes.SnapshotShape]) -> None:
    for shape in states.values():
        found = {}
        stack = [merkle.snapshot_root(shape.root)]
        while stack:
            ref = stack.pop()
            found[ref.digest] = ref
            if ref.is_node:
                stack += merkle.references(ref, shape.nodes[ref.digest])
        assert found.keys() == shape.objects.keys()
        chunks = {digest: ref.length for digest, ref in found.items() if not ref.is_node}
        assert chunks == {digest: len(plain) for digest, plain in shape.chunks.items()}


def test_a_walk(store: Store, states: dict[int, shapes.SnapshotShape]) -> None:
    walk = Walk(StoreObjects(store).nodes)
    found = [each for shape in states.values() for each in walk.objects(shape.root)]
    plain = everything(states)
    assert {each.digest for each in found} == plain.keys()
    assert len(found) == len(plain)
    assert all(each.length == len(plain[each.digest]) for each in found)


def test_collection(store: Store, states: dict[int, shapes.SnapshotShape], reader: Chunker) -> None:
    maintenance = Maintenance(store)
    assert maintenance.run_all().damage == []
    assert stored(store) == everything(states).keys()
    store.commit(Batch(snapshots_del={SnapshotId(1, 1), SnapshotId(1, 2)}))
    report = maintenance.run_all()
    assert (report.damage, maintenance.damage) == ([], [])
    assert report.collected
    kept = {seq: shape for seq, shape in states.items() if seq > 2}
    assert stored(store) == everything(kept).keys()
    scrubbed = Scrubber(store, reader, list).run_all()
    assert (scrubbed.damaged_objects, scrubbed.lost) == (0, [])
    for shape in kept.values():
        assert Verifier(store, reader).stored(shape.root).mismatches == []


def test_scrubbing(store: Store, reader: Chunker) -> None:
    scrubber = Scrubber(store, reader, list)
    report = scrubber.run_all()
    assert (report.damaged_objects, report.lost_snapshots, scrubber.trouble) == (0, 0, "")
    assert store.damaged == {}


def test_losses(store: Store, states: dict[int, shapes.SnapshotShape]) -> None:
    asked: set[bytes] = set()

    def lost(digests: set[bytes]) -> set[bytes]:
        asked.update(digests)
        return set()

    assert [loss for loss in MissingObjects(store, lost).of(states[1].root) if loss] == []
    assert asked == states[1].objects.keys()


def test_the_path_of_a_loss(store: Store, states: dict[int, shapes.SnapshotShape]) -> None:
    wanted = chunk_digest(b"small 1")
    found = MissingObjects(store, lambda digests: digests & {wanted}).of(states[1].root)
    assert {loss.path for loss in found if loss} == {b"/small", b"/deep/er/small"}
    whole = MissingObjects(store, lambda digests: digests & {states[1].root}).of(states[1].root)
    assert [loss.path for loss in whole if loss] == [b"/"]


def test_verification_of_the_store(
    store: Store, states: dict[int, shapes.SnapshotShape], reader: Chunker
) -> None:
    for shape in states.values():
        assert Verifier(store, reader).stored(shape.root).mismatches == []


def test_deltas(store: Store, states: dict[int, shapes.SnapshotShape]) -> None:
    for seq in range(1, shapes.STATES):
        old, new = states[seq], states[seq + 1]
        found = list(merkle.pairs(old.root, new.root, store.node))
        assert found
        for before, after in found:
            assert before.kind is after.kind
            assert before.digest in (old.nodes if before.is_node else old.chunks)
            assert after.digest in (new.nodes if after.is_node else new.chunks)
        assert (ObjectId.node(old.root), ObjectId.node(new.root)) in found
        contents = (ObjectId.of(ObjectKind.CHUNK, b"%d" % each) for each in (seq, seq + 1))
        assert tuple(contents) in found


def test_accounting(store: Store, states: dict[int, shapes.SnapshotShape]) -> None:
    found = UsageWalk(store).refresh()
    assert found is not None
    assert found.unreadable == 0
    chunks = {d: p for shape in states.values() for d, p in shape.chunks.items()}
    assert found.volumes[1].unique_bytes == sum(map(len, chunks.values()))
    assert found.total.stored_bytes == sum(map(store.stored_bytes, everything(states)))


def exported(store: Store) -> bytes:
    out = bytearray()
    exporter = Exporter(ExportedObjects(store), out.extend, lambda _bytes, _objects: None)
    exporter.begin(store.volumes()[0], FORMAT_VERSION)
    for record in store.snapshots(1):
        exporter.snapshot(record)
    exporter.end()
    return bytes(out)


def test_export_and_import(
    store: Store, states: dict[int, shapes.SnapshotShape], tmp_path: Path, reader: Chunker
) -> None:
    archive = exported(store)
    other = Store.open(str(tmp_path / "other"), reserve_bytes=0)
    importer = Importer(other)
    importer.feed(archive)
    assert importer.finish().objects == len(everything(states))
    assert other.unknown(everything(states)) == set()
    for shape in states.values():
        assert Verifier(other, reader).stored(shape.root).mismatches == []
    other.close()


def without(archive: bytes, digest: bytes) -> bytes:
    """The archive without an object, and right in everything else."""
    encoder = ArchiveEncoder()
    parts = [encoder.preface(FORMAT_VERSION)]
    for frame in Decoder(FORMAT_VERSION).feed(archive):
        if frame.kind is not FrameKind.END and not frame.payload.startswith(digest):
            parts.append(encoder.frame(frame.kind, frame.payload))
    return b"".join([*parts, encoder.end()])


def test_an_import_notices_the_end_of_a_node_in_the_middle(
    tmp_path: Path, states: dict[int, shapes.SnapshotShape]
) -> None:
    """How long a chunk is, a node does not tell; only the last one of a file is of any length."""
    small = 1 << 12
    shape = shapes.SnapshotShape(9)
    parts = [b"%04d" % n * (small // 4) for n in range(300)]
    top = shape.directory({b"f": shape.file(parts, 12)})
    shape.root = Root(shape.put(encode_root(top, EMPTY)))
    shape.nodes = {d: p for d, p in shape.nodes.items() if d not in states[1].nodes}
    made = Store.open(str(tmp_path / "made"), reserve_bytes=0)
    shapes.commit(made, 1, shape)
    archive = exported(made)
    for missing in (parts[255], parts[299], parts[0]):
        target = Store.open(str(tmp_path / "target"), reserve_bytes=0)
        with pytest.raises(CorruptionError, match="did not come before"):
            Importer(target).feed(without(archive, chunk_digest(missing)))
        target.close()
    made.close()


def test_a_tar(store: Store, states: dict[int, shapes.SnapshotShape]) -> None:
    out = io.BytesIO()
    Tarball(StoreObjects(store), out, lambda _entries, _bytes: None).write(states[1].root)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        zeros = tar.extractfile("./page of zeros")
        assert zeros is not None
        assert zeros.read() == bytes(shapes.PAGE)


def test_what_is_staged(store: Store, tmp_path: Path) -> None:
    shape = shapes.SnapshotShape(77)
    empty = Store.open(str(tmp_path / "empty"), reserve_bytes=0)
    stage = Staging(empty, 1)
    stage.add_chunks(shape.chunks)
    for plain in shape.nodes.values():
        stage.put(plain)
    empty.commit(stage.batch([shape.root]))
    assert stored(empty) == shape.objects.keys()
    empty.close()


def test_a_signature_of_zeros_stays(store: Store) -> None:
    """What is implied is nothing that a collection could take away."""
    content = chunk_digest(bytes(shapes.PAGE))
    record = IndexRecord(
        kind=int(Kind.FILE), size=shapes.PAGE, mtime_ns=1, ctime_ns=1, seen_ns=10, content=content
    )
    store.commit(Batch(index_put={(1, 5): record.encode()}, snapshots_del={SnapshotId(1, 1)}))
    assert Maintenance(store).run_all().collected
    assert store.index(1, 5) == record


def test_a_node_in_the_wrong_place_is_corruption(states: dict[int, shapes.SnapshotShape]) -> None:
    for encoded in states[1].nodes.values():
        for role in (merkle.Role.ROOT, merkle.Role.DIRECTORY, merkle.Role.XATTRS):
            ref = merkle.Ref(role, bytes(32))
            if merkle._ROLES[node_type(encoded)] is not role:
                with pytest.raises(CorruptionError, match="belongs"):
                    list(merkle.references(ref, encoded))


def test_pages_of_zeros_under_retention(tmp_path: Path) -> None:
    """PostgreSQL adds pages of 8 KiB of zeros to its files before it writes them."""
    with CaptureRig(tmp_path) as rig:
        relation, fresh = rig.live / "16384", rig.live / "16385"
        for size in range(5):
            page = b"%d" % size * shapes.PAGE
            relation.write_bytes(page[: shapes.PAGE] * 2 + bytes(shapes.PAGE))  # zeros at the end
            fresh.write_bytes(bytes(shapes.PAGE))
            (rig.live / "empty").touch()
            rig.capture()
        last = rig.state.head
        assert last is not None
        forgotten = {record.id for record in rig.store.snapshots(1)} - {last.id}
        rig.store.commit(Batch(snapshots_del=forgotten))
        maintenance = Maintenance(rig.store)
        report = maintenance.run_all()
        assert (report.damage, maintenance.damage) == ([], [])
        assert report.collected
        assert not rig.store.repack.garbage
        scrubber = Scrubber(rig.store, rig.reader, list)
        assert scrubber.run_all().damaged_objects == 0
        assert (scrubber.trouble, rig.store.damaged) == ("", {})
        back = rig.replay(last, "back")
        assert (back / "16384").read_bytes() == relation.read_bytes()
        assert (back / "16385").read_bytes() == bytes(shapes.PAGE)


def test_nobody_else_tells_nodes_apart() -> None:
    """A new type of node, or a new kind of what is implied, is one edit."""
    package = Path(diffkeeper.__file__).parent
    for path in package.rglob("*.py"):
        if path.parent.name != "format":
            assert not re.search(r"NodeType|node_type|zero_digest", path.read_text()), path
