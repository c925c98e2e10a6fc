"""Any bytes decode to a value that encodes to the same bytes, or raise CorruptionError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diffkeeper import limits
from diffkeeper.errors import CorruptionError
from diffkeeper.format import chunk, dirnode, entry, filetree, merkle, node, records, root, xattrs
from diffkeeper.format.dirnode import NO_CHILD
from diffkeeper.format.ids import Root
from diffkeeper.hashing import chunk_digest, node_digest

PLAIN_MAX = 4096
# Most are in the range of 64 bits of nanoseconds, and some at the ends of what seconds can be.
TIMES = st.integers(-(2**63), 2**63 - 1) | st.integers(-(2**63) * 10**9, 2**63 * 10**9 - 1)
ENTRIES = st.builds(
    entry.Entry,
    st.sampled_from([kind for kind in entry.Kind if kind != entry.Kind.LINK]),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**32 - 1),
    gid=st.integers(0, 2**32 - 1),
    mtime_ns=TIMES,
    size=st.integers(0, 2**63 - 1),
    content=st.binary(min_size=32, max_size=32),
    target=st.binary(max_size=100),
    rdev=st.integers(0, 2**64 - 1),
    xattrs=st.just(b"") | st.binary(min_size=32, max_size=32),
    chunk_bits=st.integers(0, 20),
    sparse=st.booleans(),
    link_id=st.integers(0, 2**64 - 1),
    links=st.integers(0, 2**32 - 1),
) | st.integers(0, 2**64 - 1).map(lambda i: entry.Entry(entry.Kind.LINK, link_id=i))
NUMBERS = st.integers(0, 2**63 - 1)
# Surrogates have no UTF-8 form and are refused.
TEXTS = st.text(max_size=20)
SNAPSHOTS = st.builds(
    records.SnapshotRecord,
    volume_id=NUMBERS,
    seq=NUMBERS,
    parent=st.none() | NUMBERS,
    root=st.binary(min_size=32, max_size=32).map(Root),
    time_ns=NUMBERS,
    consistency=st.sampled_from(records.CONSISTENCIES),
    reason=TEXTS,
    files=NUMBERS,
    bytes=NUMBERS,
    new_bytes=NUMBERS,
    stored_bytes=NUMBERS,
    freeze_ms=st.floats(0, 1e9),
    capture_ms=st.floats(0, 1e9),
    cause=TEXTS,
)
VOLUMES = st.builds(
    records.VolumeRecord,
    id=NUMBERS,
    name=TEXTS,
    created_ns=NUMBERS,
    options=st.dictionaries(TEXTS, TEXTS, max_size=3),
    head=st.none() | NUMBERS,
    next_seq=NUMBERS,
    next_link_id=NUMBERS,
    mounts=st.dictionaries(TEXTS, NUMBERS, max_size=3),
    boot_id=TEXTS,
    clean=st.booleans(),
    verified_seq=st.none() | NUMBERS,
    removed_ns=st.none() | NUMBERS,
    live_id=TEXTS,
)
INDEXES = st.builds(
    records.IndexRecord,
    kind=st.integers(0, 127),
    size=NUMBERS,
    mtime_ns=TIMES,
    ctime_ns=TIMES,
    seen_ns=NUMBERS,
    link_id=NUMBERS,
    content=st.binary(min_size=32, max_size=32),
    parent_ino=st.integers(0, 2**64 - 1),
    name=st.binary(max_size=255),
)
REFS = st.lists(
    st.binary(max_size=3).map(chunk_digest) | st.just(chunk.HOLE), min_size=1, max_size=5
)
CHILDREN = (
    st.lists(st.integers(0, 2**40), min_size=16, max_size=16)
    .filter(lambda counts: sum(counts) > limits.DIRECTORY_LEAF_ENTRIES_MAX)
    .map(lambda counts: [(bytes([n % 255 + 1]) * 32, n) if n else NO_CHILD for n in counts])
)


def file_node(refs: list[bytes]) -> bytes:
    stored: list[bytes] = []

    def put(encoded: bytes) -> bytes:
        stored.append(encoded)
        return node_digest(encoded)

    filetree.build([*refs, chunk_digest(b"")], len(refs) + 1, put)
    return stored[-1]


# How each codec decodes, how it encodes what it decoded, and encodings to damage. What a decoder
# returns is what its own encoder takes, which a table of many codecs cannot say in types.
Codec = tuple[Callable[[bytes], Any], Callable[[Any], bytes] | None, st.SearchStrategy[bytes]]
CODECS: dict[str, Codec] = {
    "chunk": (
        lambda raw: chunk.decode(raw, PLAIN_MAX),
        None,
        st.binary(max_size=300).map(lambda plain: chunk.encode(plain * 5)),
    ),
    "entry": (entry.decode_entry, entry.encode_entry, ENTRIES.map(entry.encode_entry)),
    "file": (filetree.decode, None, REFS.map(file_node)),
    "leaf": (
        dirnode.decode_leaf,
        dirnode.encode_leaf,
        st.dictionaries(
            st.binary(min_size=1, max_size=20), ENTRIES.map(entry.encode_entry), min_size=1
        ).map(dirnode.encode_leaf),
    ),
    "inner": (
        dirnode.decode_inner,
        dirnode.encode_inner,
        CHILDREN.map(dirnode.encode_inner),
    ),
    "xattrs": (
        xattrs.decode,
        xattrs.encode,
        st.dictionaries(st.binary(min_size=1, max_size=20), st.binary(max_size=50)).map(
            xattrs.encode
        ),
    ),
    "root": (
        root.decode_root,
        lambda value: root.encode_root(*value),
        st.builds(
            lambda size: root.encode_root(
                entry.Entry(entry.Kind.DIRECTORY, size=size), entry.EMPTY
            ),
            NUMBERS,
        ),
    ),
    "snapshot": (
        records.SnapshotRecord.decode,
        records.SnapshotRecord.encode,
        SNAPSHOTS.map(records.SnapshotRecord.encode),
    ),
    "volume": (
        records.VolumeRecord.decode,
        records.VolumeRecord.encode,
        VOLUMES.map(records.VolumeRecord.encode),
    ),
    "index": (
        records.IndexRecord.decode,
        records.IndexRecord.encode,
        INDEXES.map(records.IndexRecord.encode),
    ),
    "references": (
        lambda raw: list(merkle.certain(raw)),
        None,
        REFS.map(file_node) | CHILDREN.map(dirnode.encode_inner),
    ),
}
HEADERS = st.sampled_from([b"", *(node.header(kind) for kind in node.NodeType)])


def check(name: str, raw: bytes) -> None:
    decode, encode, _ = CODECS[name]
    try:
        value = decode(raw)
    except CorruptionError:
        return
    if encode:
        assert encode(value) == raw


@pytest.mark.parametrize("name", CODECS)
@settings(deadline=None)
@given(header=HEADERS, raw=st.binary(max_size=400))
@example(header=b"", raw=b"[" * 100_000)
@example(header=b"", raw=b'{"id":' + b"9" * 10_000 + b"}")
def test_any_bytes(name: str, header: bytes, raw: bytes) -> None:
    check(name, header + raw)


@pytest.mark.parametrize("name", CODECS)
@settings(deadline=None)
@given(data=st.data())
def test_damaged_bytes(name: str, data: st.DataObject) -> None:
    raw = data.draw(CODECS[name][2])
    at = data.draw(st.integers(0, max(len(raw) - 1, 0)))
    put = data.draw(st.binary(max_size=4))
    check(name, raw[:at] + put + raw[at + data.draw(st.integers(0, 6)) :])


@pytest.mark.parametrize("name", CODECS)
@settings(deadline=None)
@given(data=st.data())
def test_valid_bytes_decode_to_themselves(name: str, data: st.DataObject) -> None:
    decode, encode, valid = CODECS[name]
    raw = data.draw(valid)
    value = decode(raw)
    if encode:
        assert encode(value) == raw


@settings(deadline=None)
@given(ENTRIES)
def test_entries_survive(value: entry.Entry) -> None:
    assert entry.decode_entry(memoryview(entry.encode_entry(value))) == value


@settings(deadline=None)
@given(st.binary(max_size=PLAIN_MAX), st.none() | st.sampled_from([1, 3, 9]))
def test_chunks_survive(plain: bytes, level: int | None) -> None:
    stored = chunk.encode(memoryview(plain), level)
    assert chunk.decode(memoryview(stored), PLAIN_MAX) == plain
    assert len(stored) <= len(plain) + chunk.HEADER_BYTES
    if plain:
        with pytest.raises(CorruptionError):
            chunk.decode(stored, len(plain) - 1)


@settings(deadline=None)
@given(st.integers(0, 200), st.none() | st.integers(0, 199))
def test_is_zero(length: int, at: int | None) -> None:
    data = bytearray(length)
    if at is not None and at < length:
        data[at] = 1
    for kind in (bytes, bytearray, memoryview):
        assert chunk.is_zero(kind(data)) == (not any(data))


@settings(deadline=None)
@given(SNAPSHOTS)
def test_snapshots_survive(record: records.SnapshotRecord) -> None:
    assert records.SnapshotRecord.decode(record.encode()) == record


@settings(deadline=None)
@given(VOLUMES)
def test_volumes_survive(record: records.VolumeRecord) -> None:
    assert records.VolumeRecord.decode(record.encode()) == record


@settings(deadline=None)
@given(INDEXES)
def test_index_records_survive(record: records.IndexRecord) -> None:
    assert records.IndexRecord.decode(record.encode()) == record
