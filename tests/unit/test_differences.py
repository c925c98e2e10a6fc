"""Two snapshots of many files are compared at the cost of what differs."""

from __future__ import annotations

from msgspec import structs

from diffkeeper.format import differences as compared
from diffkeeper.format import dirtree
from diffkeeper.format.differences import DifferentPath, differences
from diffkeeper.format.entry import EMPTY, Entry, Kind, link_key
from diffkeeper.format.ids import Root
from diffkeeper.format.root import encode_root
from diffkeeper.hashing import chunk_digest, node_digest

DIRECTORIES, FILES = 100, 1_000
FILE = Entry(Kind.FILE, 0o644, size=3, content=chunk_digest(b"old"), chunk_bits=12)
CHANGED = structs.replace(FILE, content=chunk_digest(b"new"))
LINK = Entry(Kind.LINK, link_id=1)


class CountedNodes(dict[bytes, bytes]):
    """Nodes, and how many were read."""

    reads = 0

    def put(self, encoded: bytes) -> bytes:
        digest = node_digest(encoded)
        self[digest] = encoded
        return digest

    def read(self, digest: bytes) -> bytes:
        self.reads += 1
        return self[digest]

    def directory(self, entries: dict[bytes, Entry]) -> Entry:
        content = dirtree.apply(EMPTY, entries, self.__getitem__, self.put)
        return Entry(Kind.DIRECTORY, 0o755, content=content)

    def root(self, top: Entry, shared: Entry | None = None) -> Root:
        linked = {link_key(1): shared}
        links = dirtree.apply(EMPTY, linked, self.__getitem__, self.put)
        return Root(self.put(encode_root(top, links)))


def many(nodes: CountedNodes) -> dict[bytes, Entry]:
    """100,000 files in a hundred directories, no two of which share a node."""
    names = [b"file-%d" % number for number in range(FILES)]
    owned = [structs.replace(FILE, uid=number) for number in range(DIRECTORIES)]
    return {b"d%d" % n: nodes.directory(dict.fromkeys(names, owned[n])) for n in range(len(owned))}


def with_changes(nodes: CountedNodes, before: dict[bytes, Entry], count: int) -> dict[bytes, Entry]:
    """One file in each of so many directories is another one."""
    after = dict(before)
    for number in range(count):
        old = before[b"d%d" % number]
        name = {b"file-%d" % number: CHANGED}
        content = dirtree.apply(old.content, name, nodes.__getitem__, nodes.put)
        after[b"d%d" % number] = structs.replace(old, content=content)
    return after


def test_ten_changes_of_a_hundred_thousand_files_cost_their_paths() -> None:
    nodes = CountedNodes()
    before = many(nodes)
    old = nodes.root(nodes.directory(before))
    new = nodes.root(nodes.directory(with_changes(nodes, before, 10)))
    found = list(differences(old, new, nodes.read))
    assert [each.path for each in found] == [b"d%d/file-%d" % (n, n) for n in range(10)]
    # On both sides: the root; the top directory's nodes; three nodes for each changed name.
    assert nodes.reads <= 2 * (1 + 17 + 10 * 3), nodes.reads
    assert nodes.reads < len(nodes) / 10
    nodes.reads = 0
    assert list(differences(old, new, nodes.read, after=b"d8/file-8")) == found[-1:]
    assert nodes.reads <= 2 * (1 + 17 + 2 * 3), nodes.reads


def test_what_is_the_same_is_not_read() -> None:
    nodes = CountedNodes()
    old = nodes.root(nodes.directory(many(nodes)))
    assert list(differences(old, old, nodes.read)) == []
    assert nodes.reads == 2


def test_every_name_of_a_file_that_changed_behind_its_links_is_found() -> None:
    nodes = CountedNodes()
    names = {b"deep": nodes.directory({b"link": LINK, b"same": FILE}), b"link": LINK, b"own": FILE}
    top = nodes.directory(names)
    old, new = nodes.root(top, FILE), nodes.root(top, CHANGED)
    found = list(differences(old, new, nodes.read))
    assert [each.path for each in found] == [b"deep/link", b"link"]
    assert {each[1:] for each in found} == {(FILE, CHANGED, ("content",))}


def test_another_name_of_a_file_changes_nothing_of_its_first_one() -> None:
    """A file with several names is stored apart from them."""
    nodes = CountedNodes()
    old = nodes.root(nodes.directory({b"first": FILE}))
    new = nodes.root(nodes.directory({b"first": LINK, b"second": LINK}), FILE)
    assert list(differences(old, new, nodes.read)) == [DifferentPath(b"second", None, FILE)]


def test_a_directory_that_became_a_file_and_back() -> None:
    nodes = CountedNodes()
    inside = nodes.directory({b"b": nodes.directory({b"c": FILE})})
    old, new = (nodes.root(nodes.directory({b"a": each})) for each in (inside, FILE))
    found = list(differences(old, new, nodes.read))
    assert [(each.path, each.new is None) for each in found] == [
        (b"a", False),
        (b"a/b", True),
        (b"a/b/c", True),
    ]
    assert found[0].parts == ("type", "mode")
    back = list(differences(new, old, nodes.read))
    assert [(each.path, each.old is None) for each in back] == [
        (b"a", False),
        (b"a/b", True),
        (b"a/b/c", True),
    ]


def test_more_names_of_one_directory_than_are_kept_in_memory() -> None:
    nodes = CountedNodes()
    count = 2 * compared.NAMES_MAX + 1
    names = sorted(b"%d" % number for number in range(count))
    old = nodes.root(nodes.directory({}))
    new = nodes.root(nodes.directory(dict.fromkeys(names, FILE)))
    assert [each.path for each in differences(old, new, nodes.read)] == names
