"""A directory's root depends on its entries alone, and its diff is the difference of the sets."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from diffkeeper.format import dirtree, merkle
from diffkeeper.format.entry import EMPTY, Entry, Kind
from diffkeeper.hashing import node_digest
from diffkeeper.limits import DIRECTORY_LEAF_ENTRIES_MAX

# Numbered names come close to the sizes at which leaves split and merge.
NUMBERS = st.integers(0, 4 * DIRECTORY_LEAF_ENTRIES_MAX)
Model = dict[bytes, Entry]
Changes = dict[bytes, Entry | None]


def name_of(number: int) -> bytes:
    return b"name-%d" % number


def entry_of(size: int) -> Entry:
    return Entry(Kind.FILE, 0o644, size=size, chunk_bits=16)


@st.composite
def changes(draw: st.DrawFn) -> Changes:
    """A stretch of names set or removed, and some more of either."""
    first, length = draw(NUMBERS), draw(st.sampled_from([0, 5, 60, 65, 70, 200]))
    size = draw(st.integers(0, 2))
    found: Changes = {
        name_of(i): entry_of(size) if size else None for i in range(first, first + length)
    }
    singles = st.dictionaries(NUMBERS.map(name_of), st.none() | st.integers(1, 2).map(entry_of))
    raw_names = st.binary(min_size=1, max_size=255)
    return found | draw(singles) | draw(st.dictionaries(raw_names, st.just(entry_of(1))))


class Nodes(dict[bytes, bytes]):
    """Node storage."""

    def put(self, encoded: bytes) -> bytes:
        digest = node_digest(encoded)
        self[digest] = encoded
        return digest


def merged(model: Model, batch: Changes) -> Model:
    both = {**model, **batch}
    return {name: entry for name, entry in both.items() if entry is not None}


def built(model: Model, nodes: Nodes) -> bytes:
    return dirtree.apply(EMPTY, model, nodes.__getitem__, nodes.put)


@settings(deadline=None)
@given(st.lists(changes(), max_size=5), changes())
def test_any_history_gives_the_same_root(history: list[Changes], last: Changes) -> None:
    nodes, model, root = Nodes(), Model(), EMPTY
    get = nodes.__getitem__
    for batch in history:
        root, model = dirtree.apply(root, batch, get, nodes.put), merged(model, batch)
        assert root == built(model, Nodes())
        assert dirtree.count(root, get) == len(model)
    assert dict(dirtree.entries(root, get)) == model
    for name in (*model, *last, b"absent"):
        assert dirtree.lookup(root, name, get) == model.get(name)
    after = dirtree.apply(root, last, get, nodes.put)
    wanted = merged(model, last)
    assert {name: (old, new) for name, old, new in dirtree.diff(root, after, get)} == {
        name: (model.get(name), wanted.get(name))
        for name in model.keys() | wanted.keys()
        if model.get(name) != wanted.get(name)
    }
    assert dirtree.apply(after, dict.fromkeys(wanted), get, nodes.put) == EMPTY


@settings(deadline=None)
@given(st.lists(changes(), min_size=1, max_size=3))
def test_one_name_at_a_time_gives_the_same_root(batches: list[Changes]) -> None:
    nodes, model = Nodes(), Model()
    for batch in batches:
        model = merged(model, batch)
    root = EMPTY
    for name in sorted(model, reverse=True):
        root = dirtree.apply(root, {name: model[name]}, nodes.__getitem__, nodes.put)
    assert root == built(model, Nodes())


@settings(deadline=None)
@given(st.lists(changes(), max_size=3))
def test_references_reach_every_node(history: list[Changes]) -> None:
    nodes, model = Nodes(), Model()
    for batch in history:
        model = merged(model, batch)
    root = built(model, nodes)
    reached: set[bytes] = set()
    todo = [merkle.Ref(merkle.Role.DIRECTORY, root)] if root != EMPTY else []
    while todo:
        ref = todo.pop()
        reached.add(ref.digest)
        todo += [r for r in merkle.references(ref, nodes[ref.digest]) if r.is_node]
    assert reached == set(nodes)
