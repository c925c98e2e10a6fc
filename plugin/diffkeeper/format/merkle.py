"""The Merkle tree of a snapshot: what each node refers to, and the role of each object.

All code that follows references uses `references`, `of_entry` or `pairs`; only this module tells
types of nodes apart. Implied objects are not stored, and no references to them are returned: holes,
chunks of zeros of any length, empty files and directories, no extended attributes.
"""

from __future__ import annotations

from enum import IntEnum
from itertools import zip_longest
from typing import TYPE_CHECKING, Final, NamedTuple

from diffkeeper.errors import CorruptionError
from diffkeeper.format import filetree, xattrs
from diffkeeper.format.chunk import HOLE, zero_digest
from diffkeeper.format.dirnode import decode_inner, decode_leaf
from diffkeeper.format.entry import EMPTY, Entry, Kind, chunk_count, decode_entry
from diffkeeper.format.ids import ObjectId, Root
from diffkeeper.format.node import Get, NodeType, node_type
from diffkeeper.format.root import decode_root
from diffkeeper.limits import CHUNK_BYTES_MAX, FILE_NODE_FANOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

LINKS_PATH: Final = b"hard links/"  # stands for the links tree in a path


class Role(IntEnum):
    """The role of an object in the tree."""

    CHUNK = 0
    ROOT = 1
    DIRECTORY = 2  # a node of a directory's tree, or of the links tree
    FILE = 3  # a node of a file's tree
    XATTRS = 4


_ROLES: Final = {
    NodeType.ROOT: Role.ROOT,
    NodeType.DIRECTORY_LEAF: Role.DIRECTORY,
    NodeType.DIRECTORY_INNER: Role.DIRECTORY,
    NodeType.FILE: Role.FILE,
    NodeType.XATTRS: Role.XATTRS,
}


class Ref(NamedTuple):
    """A reference to one object that is stored."""

    role: Role
    digest: bytes
    length: int = 0  # plain bytes of a chunk; 0 for nodes, and where its file is not known
    file: Entry | None = None  # for a node of a file's tree
    first: int = 0  # for such a node: number of the first chunk below it
    name: bytes = b""  # what it adds to the path; a directory's ends in a slash

    @property
    def is_node(self) -> bool:
        """Whether it is a node; else it is a chunk."""
        return self.role is not Role.CHUNK

    @property
    def id(self) -> ObjectId:
        """Id of the object."""
        return ObjectId.node(self.digest) if self.is_node else ObjectId.chunk(self.digest)


Pair = tuple[ObjectId, ObjectId]  # old and new, of one kind


def snapshot_root(root: Root) -> Ref:
    """The root of a snapshot, from which everything else is reached."""
    return Ref(Role.ROOT, root)


def is_implied(digest: bytes, length: int) -> bool:
    """Whether a chunk of this length is a hole or zeros, which are not stored."""
    return digest == HOLE or digest == zero_digest(length)


def references(ref: Ref, encoded: bytes) -> Iterator[Ref]:
    """All references of the node `ref` in order; `encoded` are its bytes.

    CorruptionError when it is not a node, or of a type that is not allowed there.
    """
    return (each for each in _slots(ref, encoded) if each is not None)


def _slots(ref: Ref, encoded: bytes) -> Iterator[Ref | None]:
    """As `references`; for files and inner nodes by position, with None for implied objects."""
    kind = _expected(ref, encoded)
    if kind is NodeType.FILE:
        yield from _of_file(ref, encoded)
    elif kind is NodeType.DIRECTORY_INNER:
        for digest, entries in decode_inner(encoded):
            yield Ref(Role.DIRECTORY, digest) if entries else None
    elif kind is NodeType.DIRECTORY_LEAF:
        for name, entry in entries_of(encoded):
            slash = b"/" if entry.kind is Kind.DIRECTORY else b""
            yield from of_entry(entry, name + slash)
    elif kind is NodeType.ROOT:
        entry, links_root = decode_root(encoded)
        if links_root != EMPTY:
            yield Ref(Role.DIRECTORY, links_root, name=LINKS_PATH)
        yield from of_entry(entry, b"/")
    else:
        xattrs.decode(encoded)


def _expected(ref: Ref, encoded: bytes) -> NodeType:
    kind = node_type(encoded)
    if _ROLES[kind] is not ref.role:
        raise CorruptionError(
            f"node {ref.digest.hex()} is of the type {kind.name} where one of"
            f" {ref.role.name.lower()} belongs"
        )
    return kind


def entries_of(encoded: bytes) -> list[tuple[bytes, Entry]]:
    """Names and entries in a node itself; a root's entry is named /, other types of nodes have
    none.

    CorruptionError.
    """
    kind = node_type(encoded)
    if kind is NodeType.DIRECTORY_LEAF:
        return [(name, decode_entry(raw)) for name, raw in decode_leaf(encoded).items()]
    return [(b"/", decode_root(encoded)[0])] if kind is NodeType.ROOT else []


def of_entry(entry: Entry, name: bytes = b"") -> Iterator[Ref]:
    """References of one entry; CorruptionError for one that no encoder makes."""
    if entry.xattrs:
        yield Ref(Role.XATTRS, entry.xattrs, name=name)
    content = _content(entry, name)
    if content is not None:
        yield content


def _content(entry: Entry, name: bytes) -> Ref | None:
    if entry.content == EMPTY:
        return None
    if entry.kind is Kind.DIRECTORY:
        return Ref(Role.DIRECTORY, entry.content, name=name)
    if entry.kind is not Kind.FILE:
        raise CorruptionError(f"the entry of a {entry.kind.name.lower()} has content")
    if chunk_count(entry.size, entry.chunk_bits) > 1:
        return Ref(Role.FILE, entry.content, file=entry, name=name)
    return _chunk(entry, 0, entry.content, name)


def _chunk(entry: Entry, number: int, digest: bytes, name: bytes = b"") -> Ref | None:
    """A chunk of a file; None if it is implied, CorruptionError past the end of the file."""
    length = min(1 << entry.chunk_bits, entry.size - (number << entry.chunk_bits))
    if length <= 0:
        raise CorruptionError(f"a file of {entry.size} bytes has a chunk {number}")
    return None if is_implied(digest, length) else Ref(Role.CHUNK, digest, length, name=name)


def _of_file(ref: Ref, encoded: bytes) -> Iterator[Ref | None]:
    if ref.file is None:
        raise CorruptionError(f"file node {ref.digest.hex()} is no file's")
    level, digests = filetree.decode(encoded)
    below = FILE_NODE_FANOUT ** (level - 1)
    for number, digest in enumerate(digests):
        first = ref.first + number * below
        if level == 1:
            yield _chunk(ref.file, first, digest)
        else:
            yield None if digest == HOLE else Ref(Role.FILE, digest, file=ref.file, first=first)


# Of nodes that arrive before what refers to them


def certain(encoded: bytes) -> Iterator[Ref]:
    """References that a node has wherever it is in a tree; CorruptionError when it is not a node.

    The node does not tell the length of the file: the last reference to a chunk is left out, since
    that may be the end of the file, which is implied if it is zeros; see `open_end`. Chunks that
    are zeros in full length are left out, too.
    """
    kind = node_type(encoded)
    if kind is not NodeType.FILE:
        yield from references(Ref(_ROLES[kind], b""), encoded)
        return
    level, digests = filetree.decode(encoded)
    for digest in digests[: -1 if level == 1 else None]:
        if digest != HOLE and (level > 1 or digest not in _WHOLE_ZEROS):
            yield Ref(Role.FILE if level > 1 else Role.CHUNK, digest)


class Shape(NamedTuple):
    """What a node counts for: nodes of directories and files below it, each way to them counted,
    names in the node itself, and chunks that it refers to itself and that are not holes.
    """

    below: list[bytes]
    names: int
    chunks: int


def shape(encoded: bytes) -> Shape:
    """What a node counts for, wherever it is in a tree; CorruptionError when it is not a node."""
    kind = node_type(encoded)
    if kind is NodeType.FILE:
        level, digests = filetree.decode(encoded)
        kept = [digest for digest in digests if digest != HOLE]
        return Shape([], 0, len(kept)) if level == 1 else Shape(kept, 0, 0)
    refs = references(Ref(_ROLES[kind], b""), encoded)
    below = [ref.digest for ref in refs if ref.role in (Role.DIRECTORY, Role.FILE)]
    entries = entries_of(encoded)
    return Shape(below, len(entries), sum(_is_one_chunk(entry) for _, entry in entries))


def _is_one_chunk(entry: Entry) -> bool:
    """Whether the file is a single chunk that is not a hole: its root is that chunk."""
    one = entry.kind is Kind.FILE and chunk_count(entry.size, entry.chunk_bits) == 1
    return one and entry.content not in (EMPTY, HOLE)


def children_of_file(encoded: bytes) -> list[bytes]:
    """Nodes below a node of a file's tree, HOLE among them; empty for other nodes and for the
    lowest ones. CorruptionError.
    """
    if node_type(encoded) is not NodeType.FILE:
        return []
    level, digests = filetree.decode(encoded)
    return digests if level > 1 else []


def open_end(encoded: bytes) -> Ref | None:
    """The last reference of a node of a file's tree, if it may be implied or not."""
    level, digests = filetree.decode(encoded)
    if digests[-1] == HOLE or (level == 1 and digests[-1] in _WHOLE_ZEROS):
        return None
    return Ref(Role.FILE if level > 1 else Role.CHUNK, digests[-1])


_WHOLE_ZEROS: Final = frozenset(
    zero_digest(1 << bits) for bits in range(CHUNK_BYTES_MAX.bit_length())
)


# Two snapshots beside each other


def pairs(old: Root, new: Root, get: Get) -> Iterator[Pair]:
    """Objects that differ between two snapshots at the same place in the tree, in order of the
    tree.
    """
    stack = [] if EMPTY in (old, new) else [(snapshot_root(old), snapshot_root(new))]
    while stack:
        before, after = stack.pop()
        if before.digest == after.digest:
            continue
        yield before.id, after.id
        if before.is_node:
            stack += reversed(_between(before, get(before.digest), after, get(after.digest)))


def _between(old: Ref, encoded: bytes, new: Ref, encoded_new: bytes) -> list[tuple[Ref, Ref]]:
    """References of two nodes at the same place; empty where the nodes have different shapes."""
    kind = _expected(old, encoded)
    if kind is not _expected(new, encoded_new):
        return []
    if kind is NodeType.DIRECTORY_LEAF:
        after = dict(entries_of(encoded_new))
        both = [(each, after[name]) for name, each in entries_of(encoded) if name in after]
        return [pair for a, b in both for pair in _contents(a, b)]
    if kind is NodeType.ROOT:
        (entry, links), (entry_new, links_new) = decode_root(encoded), decode_root(encoded_new)
        links_pair = Ref(Role.DIRECTORY, links), Ref(Role.DIRECTORY, links_new)
        shown = [] if EMPTY in (links, links_new) else [links_pair]
        return [*shown, *_contents(entry, entry_new)]
    both_slots = zip(_slots(old, encoded), _slots(new, encoded_new), strict=False)
    return [(a, b) for a, b in both_slots if a is not None and b is not None and a.role is b.role]


def _contents(old: Entry, new: Entry) -> list[tuple[Ref, Ref]]:
    if old.kind is not new.kind or old.chunk_bits != new.chunk_bits:
        return []
    counts = chunk_count(old.size, old.chunk_bits), chunk_count(new.size, new.chunk_bits)
    if old.kind is Kind.FILE and filetree.height(counts[0]) != filetree.height(counts[1]):
        return []
    a, b = _content(old, b""), _content(new, b"")
    return [] if a is None or b is None else [(a, b)]


def same_bytes(old: Entry, new: Entry, get: Get) -> bool:
    """Whether two files have the same content; a hole in place of zeros is no difference.

    False, too, where their chunks have different sizes, unless each is a single chunk.
    """
    if (old.size, old.content) == (new.size, new.content):
        return True
    few = max(chunk_count(old.size, old.chunk_bits), chunk_count(new.size, new.chunk_bits)) <= 1
    if old.size != new.size or (old.chunk_bits != new.chunk_bits and not few):
        return False
    stack: list[tuple[Ref | None, Ref | None]] = [(_content(old, b""), _content(new, b""))]
    while stack:
        both = stack.pop()
        digests = {None if ref is None else ref.digest for ref in both}
        if len(digests) == 1:
            continue
        if any(ref is not None and not ref.is_node for ref in both):
            return False
        before, after = ([] if r is None else list(_slots(r, get(r.digest))) for r in both)
        stack += zip_longest(before, after)
    return True
