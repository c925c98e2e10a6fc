"""Bounds and refusals of the codecs that random bytes would seldom reach."""

from __future__ import annotations

import random
import struct
import threading

import pytest
import zstandard
from msgspec import structs

from diffkeeper import limits
from diffkeeper.errors import CorruptionError, InvalidInputError
from diffkeeper.format import chunk, dirnode, dirtree, entry, filetree, root, xattrs
from diffkeeper.format.entry import EMPTY, Entry, Kind
from diffkeeper.hashing import DIGEST_BYTES, chunk_digest, node_digest

# Of an encoded entry: all parts that any has.
ENTRY_BYTES_MAX = (
    entry.FIXED.size
    + 2 * DIGEST_BYTES
    + entry.RDEV.size
    + entry.LINK.size
    + entry.TARGET.size
    + limits.LINK_TARGET_BYTES_MAX
    + entry.TIME.size
)
FILE = Entry(Kind.FILE, 0o644, size=3, content=chunk_digest(b"abc"), chunk_bits=16)


class Nodes(dict[bytes, bytes]):
    """Node storage that counts reads."""

    reads = 0

    def get_node(self, digest: bytes) -> bytes:
        self.reads += 1
        return self[digest]

    def put(self, encoded: bytes) -> bytes:
        digest = node_digest(encoded)
        self[digest] = encoded
        return digest


def test_a_frame_that_declares_less_than_it_holds_is_refused() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 26))
    stored = struct.pack("<BI", chunk.KIND_ZSTD, 4096) + bomb
    with pytest.raises(CorruptionError, match="declares 67108864 bytes instead of 4096"):
        chunk.decode(stored, 4096)


def test_a_frame_without_a_size_is_refused() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(4096))
    with pytest.raises(CorruptionError):
        chunk.decode(struct.pack("<BI", chunk.KIND_ZSTD, 4096) + frame, 4096)


def test_bytes_behind_a_frame_are_refused() -> None:
    with pytest.raises(CorruptionError):
        chunk.decode(chunk.encode(bytes(4096)) + b"x", 4096)


def test_the_reserved_kind_is_refused() -> None:
    with pytest.raises(CorruptionError, match="kind 2"):
        chunk.decode(bytes((chunk.KIND_DELTA, 0, 0, 0, 0)), 4096)


def test_what_does_not_shrink_stays_raw() -> None:
    plain = random.Random(1).randbytes(65536)
    assert chunk.encode(plain)[0] == chunk.KIND_RAW
    assert chunk.encode(bytes(65536))[0] == chunk.KIND_ZSTD
    assert chunk.encode(bytes(65536), None)[0] == chunk.KIND_RAW


def test_threads_compress_at_once() -> None:
    plain = random.Random(2).randbytes(1000) * 200
    failures: list[object] = []

    def work(level: int) -> None:
        for _ in range(30):
            if chunk.decode(chunk.encode(plain, level), len(plain)) != plain:
                failures.append(level)

    threads = [threading.Thread(target=work, args=(level,)) for level in (1, 3, 1, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize(
    "wrong",
    [
        structs.replace(FILE, mode=0o10000),
        structs.replace(FILE, size=-1),
        structs.replace(FILE, size=1 << 63),
        structs.replace(FILE, uid=1 << 32),
        structs.replace(FILE, content=b"short"),
        structs.replace(FILE, chunk_bits=21),
        Entry(Kind.SYMLINK, target=bytes(limits.LINK_TARGET_BYTES_MAX + 1)),
        Entry(Kind.LINK, mode=1, link_id=2),
    ],
)
def test_entries_out_of_range_are_not_encoded(wrong: Entry) -> None:
    with pytest.raises(InvalidInputError):
        entry.encode_entry(wrong)


def test_the_largest_nodes_stay_below_the_bound() -> None:
    assert ENTRY_BYTES_MAX * limits.DIRECTORY_LEAF_ENTRIES_MAX + 20_000 < (limits.NODE_BYTES_MAX)
    assert limits.XATTR_TOTAL_BYTES_MAX < limits.NODE_BYTES_MAX
    assert ENTRY_BYTES_MAX < 1 << 16  # lengths in a leaf are u16


def test_bounds_of_xattrs() -> None:
    with pytest.raises(InvalidInputError):
        xattrs.encode({b"user.a": bytes(limits.XATTR_VALUE_BYTES_MAX + 1)})
    with pytest.raises(InvalidInputError):
        xattrs.encode({b"user.%d" % i: bytes(60_000) for i in range(9)})
    with pytest.raises(InvalidInputError):
        xattrs.encode({b"": b""})


def test_only_a_directory_is_a_root() -> None:
    with pytest.raises(InvalidInputError):
        root.encode_root(FILE, EMPTY)


@pytest.mark.parametrize("name", [b"", b"x" * 256])
def test_names_have_1_to_255_bytes(name: bytes) -> None:
    nodes = Nodes()
    with pytest.raises(InvalidInputError):
        dirtree.apply(EMPTY, {name: FILE}, nodes.get_node, nodes.put)


def test_a_batch_reads_and_writes_only_its_paths() -> None:
    nodes = Nodes()
    names = [b"file-%d" % i for i in range(20_000)]
    top = dirtree.apply(EMPTY, dict.fromkeys(names, FILE), nodes.get_node, nodes.put)
    assert dirtree.count(top, nodes.get_node) == len(names)
    nodes.reads, before = 0, len(nodes)
    changed = structs.replace(FILE, size=2)
    after = dirtree.apply(top, {names[7]: changed}, nodes.get_node, nodes.put)
    assert nodes.reads == len(nodes) - before <= 5
    nodes.reads = 0
    assert list(dirtree.diff(top, after, nodes.get_node)) == [(names[7], FILE, changed)]
    assert nodes.reads <= 10


def test_a_wrong_count_of_entries_is_corruption() -> None:
    nodes = Nodes()
    leaf = nodes.put(dirnode.encode_leaf({b"a": entry.encode_entry(FILE)}))
    children = [dirnode.NO_CHILD] * 15 + [(leaf, 65)]
    top = nodes.put(dirnode.encode_inner(children))
    with pytest.raises(CorruptionError):
        list(dirtree.entries(top, nodes.get_node))


def test_a_tree_deeper_than_a_hash_is_corruption() -> None:
    nodes = Nodes()
    digest = nodes.put(dirnode.encode_leaf({b"a": entry.encode_entry(FILE)}))
    for _ in range(limits.DIRECTORY_DEPTH_MAX + 1):
        digest = nodes.put(dirnode.encode_inner([(digest, 65)] * 16))
    with pytest.raises(CorruptionError, match="deeper"):
        dirtree.lookup(digest, b"a", nodes.get_node)
    with pytest.raises(CorruptionError, match="deeper"):
        next(dirtree.entries(digest, nodes.get_node))


def test_a_file_tree_of_another_length_is_corruption() -> None:
    nodes = Nodes()
    refs = [chunk_digest(b"%d" % i) for i in range(300)]
    top = filetree.build(refs, 300, nodes.put)
    for count in (2, 299 - 256 + 1, 257, 256 * 3, 70_000):
        with pytest.raises(CorruptionError):
            list(filetree.refs(top, count, nodes.get_node))


def test_a_wrong_number_of_references_is_refused() -> None:
    nodes = Nodes()
    for given in (2, 4):
        with pytest.raises(InvalidInputError):
            filetree.build([chunk_digest(b"x")] * given, 3, nodes.put)
    for index in (-1, 3):
        with pytest.raises(InvalidInputError):
            filetree.update(EMPTY, 0, 3, {index: chunk.HOLE}, nodes.get_node, nodes.put)


def test_zero_digest() -> None:
    assert chunk.zero_digest(4096) == chunk_digest(bytes(4096))
