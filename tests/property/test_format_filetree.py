"""A file tree that is updated equals one that is built, whatever grows, shrinks or is a hole."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from diffkeeper.format import filetree
from diffkeeper.format.chunk import HOLE
from diffkeeper.format.entry import EMPTY
from diffkeeper.hashing import chunk_digest, node_digest
from diffkeeper.limits import FILE_NODE_FANOUT

COUNTS = st.one_of(
    st.integers(0, 3),
    st.integers(0, 3 * FILE_NODE_FANOUT),
    st.sampled_from([FILE_NODE_FANOUT**2 + d for d in (-1, 0, 1)]),
)
DIGESTS = st.one_of(st.just(HOLE), st.integers(0, 5).map(lambda i: chunk_digest(b"%d" % i)))


class Nodes:
    """Node storage that counts its use."""

    def __init__(self) -> None:
        self.nodes: dict[bytes, bytes] = {}
        self.gets = 0

    def get(self, digest: bytes) -> bytes:
        self.gets += 1
        return self.nodes[digest]

    def put(self, encoded: bytes) -> bytes:
        digest = node_digest(encoded)
        self.nodes[digest] = encoded
        return digest


@st.composite
def edits(draw: st.DrawFn) -> tuple[list[bytes], int, dict[int, bytes]]:
    """(references before, new count, changes); mostly holes or mostly data."""
    old_count, new_count = draw(COUNTS), draw(COUNTS)
    if draw(st.booleans()):
        old = [chunk_digest(b"%d" % i) for i in range(old_count)]
    else:
        old = [HOLE] * old_count
        if old_count:
            data = st.dictionaries(st.integers(0, old_count - 1), DIGESTS, max_size=6)
            for index, ref in draw(data).items():
                old[index] = ref
    changes: dict[int, bytes] = {}
    if new_count:
        where = st.one_of(st.integers(0, new_count - 1), st.just(new_count - 1))
        changes = draw(st.dictionaries(where, DIGESTS, max_size=8))
        if draw(st.booleans()):
            first = draw(st.integers(0, new_count - 1))
            changes |= dict.fromkeys(range(first, min(first + 300, new_count)), HOLE)
    return old, new_count, changes


@settings(deadline=None)
@given(edits())
def test_update_equals_build(edit: tuple[list[bytes], int, dict[int, bytes]]) -> None:
    old, new_count, changes = edit
    nodes = Nodes()
    root = filetree.build(old, len(old), nodes.put)
    new = (old + [HOLE] * (new_count - len(old)))[:new_count]
    for index, ref in changes.items():
        new[index] = ref
    updated = filetree.update(root, len(old), new_count, changes, nodes.get, nodes.put)
    assert updated == filetree.build(iter(new), new_count, Nodes().put)
    assert list(filetree.refs(updated, new_count, nodes.get)) == new
    data = [(i, ref) for i, ref in enumerate(new) if ref != HOLE]
    assert list(filetree.runs(updated, new_count, nodes.get)) == data


@settings(deadline=None)
@given(COUNTS, st.integers(-2, 1000), st.none() | st.integers(0, 1000))
def test_refs_of_a_range(count: int, start: int, stop: int | None) -> None:
    nodes = Nodes()
    refs = [HOLE if i % 7 == 0 else chunk_digest(b"%d" % i) for i in range(count)]
    root = filetree.build(refs, count, nodes.put)
    start = max(start, 0)
    assert list(filetree.refs(root, count, nodes.get, start, stop)) == refs[start:stop]


@settings(deadline=None)
@given(st.integers(1, 1 << 40), st.data())
def test_one_change_in_a_huge_sparse_file_costs_one_path(count: int, data: st.DataObject) -> None:
    nodes = Nodes()
    index = data.draw(st.integers(0, count - 1))
    ref = chunk_digest(b"x")
    root = filetree.update(EMPTY, 0, count, {index: ref}, nodes.get, nodes.put)
    assert len(nodes.nodes) == filetree.height(count)
    assert list(filetree.runs(root, count, nodes.get)) == [(index, ref)]
    assert nodes.gets == filetree.height(count)
    assert filetree.update(root, count, count, {index: HOLE}, nodes.get, nodes.put) == HOLE


@settings(deadline=None)
@given(COUNTS, st.lists(st.integers(-2, FILE_NODE_FANOUT**2 + 2), max_size=50))
def test_lookup_is_the_list(count: int, asked: list[int]) -> None:
    nodes = Nodes()
    refs = [HOLE if i % 7 == 0 else chunk_digest(b"%d" % i) for i in range(count)]
    lookup = filetree.Lookup(filetree.build(refs, count, nodes.put), count, nodes.get)
    for index in asked:
        assert lookup.at(index) == (refs[index] if 0 <= index < count else HOLE)


def test_lookup_in_rising_order_reads_each_node_once() -> None:
    nodes = Nodes()
    count = 3 * FILE_NODE_FANOUT
    refs = [chunk_digest(b"%d" % i) for i in range(count)]
    lookup = filetree.Lookup(filetree.build(refs, count, nodes.put), count, nodes.get)
    assert [lookup.at(index) for index in range(count)] == refs
    assert nodes.gets == len(nodes.nodes)
