"""What two trees differ in is what a comparison of all their paths finds, from any path on."""

from __future__ import annotations

from itertools import islice

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from diffkeeper.format import dirtree, filetree, merkle
from diffkeeper.format.chunk import HOLE, zero_digest
from diffkeeper.format.differences import TOP, DifferentPath, Part, differences
from diffkeeper.format.entry import EMPTY, Entry, Kind, link_key
from diffkeeper.format.ids import Root
from diffkeeper.format.root import encode_root
from diffkeeper.hashing import chunk_digest, node_digest

BITS = 12
LINK_IDS = (1, 2)
NAMES = (b"a", b"b", b"a-", b"\xff\xfe", b"n" * 255, *(b"%d" % n for n in range(100)))
Tree = dict[bytes, "Entry | Tree"]
Flat = dict[bytes, Entry]


class Nodes(dict[bytes, bytes]):
    """Node storage."""

    def put(self, encoded: bytes) -> bytes:
        digest = node_digest(encoded)
        self[digest] = encoded
        return digest


def file(number: int, mode: int = 0o644, uid: int = 0) -> Entry:
    content = chunk_digest(b"%d" % number) if number else EMPTY
    size = len(b"%d" % number) if number else 0
    return Entry(Kind.FILE, mode, uid, size=size, content=content, chunk_bits=BITS)


FILES = st.builds(file, st.integers(0, 2), st.sampled_from([0o644, 0o600]), st.integers(0, 1))
LINKS = st.sampled_from(LINK_IDS).map(lambda number: Entry(Kind.LINK, link_id=number))
OTHERS = st.sampled_from(
    [Entry(Kind.SYMLINK, target=b"a"), Entry(Kind.SYMLINK, target=b"b"), Entry(Kind.FIFO)]
)
TREES = st.recursive(
    st.dictionaries(st.sampled_from(NAMES), FILES | LINKS | OTHERS, max_size=80),
    lambda below: st.dictionaries(st.sampled_from(NAMES), FILES | LINKS | below, max_size=4),
    max_leaves=6,
)
SHARED = st.fixed_dictionaries({number: FILES for number in LINK_IDS})


def directory(tree: Tree, nodes: Nodes) -> Entry:
    entries = {
        name: directory(each, nodes) if isinstance(each, dict) else each
        for name, each in tree.items()
    }
    content = dirtree.apply(EMPTY, entries, nodes.__getitem__, nodes.put)
    return Entry(Kind.DIRECTORY, 0o755, content=content)


def snapshot(tree: Tree, shared: dict[int, Entry], nodes: Nodes) -> Root:
    linked = {link_key(number): entry for number, entry in shared.items()}
    links = dirtree.apply(EMPTY, linked, nodes.__getitem__, nodes.put)
    return Root(nodes.put(encode_root(directory(tree, nodes), links)))


def flat(tree: Tree, shared: dict[int, Entry], above: bytes = b"") -> Flat:
    """Every path, with the entry of the file behind a link; of directories what is their own."""
    found: Flat = {}
    for name, each in tree.items():
        if isinstance(each, dict):
            found[above + name] = Entry(Kind.DIRECTORY, 0o755)
            found |= flat(each, shared, above + name + b"/")
        else:
            found[above + name] = shared[each.link_id] if each.kind is Kind.LINK else each
    return found


def own(entry: Entry | None) -> Entry | None:
    if entry is None or entry.kind is not Kind.DIRECTORY:
        return entry
    return structs.replace(entry, content=EMPTY)


@settings(deadline=None)
@given(TREES, SHARED, TREES, SHARED, st.booleans())
def test_they_are_what_the_paths_differ_in(
    old: Tree, old_shared: dict[int, Entry], new: Tree, new_shared: dict[int, Entry], little: bool
) -> None:
    if little:
        new = {**old, **dict(islice(new.items(), 2))}
    nodes = Nodes()
    before, after = snapshot(old, old_shared, nodes), snapshot(new, new_shared, nodes)
    found = list(differences(before, after, nodes.__getitem__))
    paths = [each.path for each in found]
    assert paths == sorted(paths, key=lambda path: path.split(b"/"))
    a, b = flat(old, old_shared), flat(new, new_shared)
    expected = {p: (a.get(p), b.get(p)) for p in a | b if a.get(p) != b.get(p)}
    assert {each.path: (own(each.old), own(each.new)) for each in found} == expected
    for number in range(0, len(found), max(1, len(found) // 5)):
        rest = differences(before, after, nodes.__getitem__, after=paths[number])
        assert list(rest) == found[number + 1 :]


def parts_of(old: Entry, new: Entry, nodes: Nodes) -> tuple[Part, ...]:
    before, after = (snapshot({b"f": entry}, {}, nodes) for entry in (old, new))
    (found,) = differences(before, after, nodes.__getitem__)
    return found.parts


def test_what_of_a_file_differs_is_said() -> None:
    nodes, old = Nodes(), file(1)
    assert parts_of(old, structs.replace(old, mode=0o4755), nodes) == ("mode",)
    assert parts_of(old, structs.replace(old, gid=7), nodes) == ("owner",)
    assert parts_of(old, structs.replace(old, xattrs=bytes(31) + b"x"), nodes) == ("xattrs",)
    assert parts_of(old, file(2, 0o600, 1), nodes) == ("content", "mode", "owner")
    assert parts_of(old, Entry(Kind.FIFO, 0o644), nodes) == ("type",)
    first, second = (Entry(Kind.CHAR, rdev=number) for number in (1, 2))
    assert parts_of(first, second, nodes) == ("content",)


def test_a_time_alone_is_no_difference() -> None:
    nodes, old = Nodes(), file(1)
    before, after = (
        snapshot({b"f": entry}, {}, nodes) for entry in (old, structs.replace(old, mtime_ns=5))
    )
    assert before != after
    assert list(differences(before, after, nodes.__getitem__)) == []


def test_the_top_directory_comes_first() -> None:
    nodes = Nodes()
    tree = directory({b"!": file(1)}, nodes)
    before = Root(nodes.put(encode_root(Entry(Kind.DIRECTORY, 0o755), EMPTY)))
    after = Root(nodes.put(encode_root(structs.replace(tree, mode=0o700), EMPTY)))
    top, below = differences(before, after, nodes.__getitem__)
    assert (top.path, top.parts, below.path) == (TOP, ("mode",), b"!")
    assert list(differences(before, after, nodes.__getitem__, after=TOP)) == [below]


DATA = [chunk_digest(b"data %d" % n) for n in range(2)]
ZEROS = zero_digest(1 << BITS)
CHUNKS = st.lists(st.sampled_from([HOLE, ZEROS, *DATA]), min_size=2, max_size=600)


@settings(deadline=None)
@given(CHUNKS, CHUNKS, st.booleans())
def test_holes_and_zeros_are_the_same_bytes(
    one: list[bytes], other: list[bytes], alike: bool
) -> None:
    if alike:
        other = [ZEROS if digest == HOLE else HOLE if digest == ZEROS else digest for digest in one]
    nodes = Nodes()

    def made(digests: list[bytes]) -> Entry:
        content = filetree.build(digests, len(digests), nodes.put)
        size = len(digests) << BITS
        return Entry(Kind.FILE, 0o644, size=size, content=content, chunk_bits=BITS)

    def read(digests: list[bytes]) -> list[bytes]:
        return [ZEROS if digest == HOLE else digest for digest in digests]

    same = merkle.same_bytes(made(one), made(other), nodes.__getitem__)
    assert same == (read(one) == read(other))


def test_a_difference_has_an_entry() -> None:
    nodes = Nodes()
    empty, one = snapshot({}, {}, nodes), snapshot({b"f": file(1)}, {}, nodes)
    assert list(differences(empty, one, nodes.__getitem__)) == [DifferentPath(b"f", None, file(1))]
    assert list(differences(one, empty, nodes.__getitem__)) == [DifferentPath(b"f", file(1), None)]
