"""A directory as a hash tree keyed by blake3 of the name.

The shape depends on the set of names alone: a node is a leaf exactly when it has at most
DIRECTORY_LEAF_ENTRIES_MAX entries, else it has DIRECTORY_FANOUT children by the next four bits of
the hash. Any order of changes to the same state gives the same root, so equal directories are
stored once and compared by one digest. The links tree is the same with link ids as names.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from diffkeeper.errors import CorruptionError
from diffkeeper.format.dirnode import (
    NO_CHILD,
    Child,
    decode_inner,
    decode_leaf,
    encode_inner,
    encode_leaf,
)
from diffkeeper.format.entry import EMPTY, Entry, decode_entry, encode_entry
from diffkeeper.format.node import Get, NodeType, Put, node_type
from diffkeeper.hashing import chunk_digest
from diffkeeper.limits import DIRECTORY_DEPTH_MAX, DIRECTORY_FANOUT, DIRECTORY_LEAF_ENTRIES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

DECODED_NODES_MAX = 1_024

Raws = dict[bytes, bytes]  # name to encoded entry
Change = tuple[str, bytes, bytes | None]  # hex of the name's hash, name, encoded entry or removal
_NIBBLE = {digit: value for value, digit in enumerate("0123456789abcdef")}


def _key(name: bytes) -> str:
    """The hash of a name as hex digits, one for each level of the tree."""
    return chunk_digest(name).hex()


def _read(digest: bytes, depth: int, get: Get) -> Raws | list[Child]:
    """A leaf's entries or an inner node's children."""
    return _decode(get(digest), digest, depth)


@lru_cache(maxsize=DECODED_NODES_MAX)
def _read_shared(encoded: bytes, digest: bytes, depth: int) -> Raws | list[Child]:
    """As `_read`, with the result cached, for look-ups of many names; it must not be changed."""
    return _decode(encoded, digest, depth)


def _decode(encoded: bytes, digest: bytes, depth: int) -> Raws | list[Child]:
    if node_type(encoded) == NodeType.DIRECTORY_LEAF:
        return decode_leaf(encoded)
    if depth >= DIRECTORY_DEPTH_MAX:
        raise CorruptionError(f"directory node {digest.hex()} is deeper than a hash is long")
    return decode_inner(encoded)


@dataclass(slots=True)
class _Subtree:
    """A subtree whose top is stored (`digest`), or is a leaf that is still in memory."""

    entries: int
    digest: bytes = EMPTY
    leaf: Raws | None = None

    def child(self, put: Put) -> Child:
        """Its reference for the node above; a leaf in memory is stored now."""
        if not self.entries:
            return NO_CHILD
        digest = self.digest if self.leaf is None else put(encode_leaf(self.leaf))
        return digest, self.entries


@dataclass(slots=True)
class _Apply:
    """One pass of changes through the tree."""

    get: Get
    put: Put

    def subtree(self, child: Child, changes: list[Change], depth: int) -> _Subtree:
        """The subtree `child` after `changes`, all of which belong below it."""
        digest, entries = child
        if not changes:
            return _Subtree(entries, digest)
        if digest == EMPTY:
            return self.build({}, changes, depth)
        node = _read(digest, depth, self.get)
        if isinstance(node, dict):
            if entries and len(node) != entries:
                raise CorruptionError(f"directory leaf {digest.hex()} has not {entries} entries")
            return self.build(node, changes, depth)
        parts = _partition(changes, depth)
        below = [self.subtree(node[i], parts[i], depth + 1) for i in range(DIRECTORY_FANOUT)]
        return self.join(below, depth)

    def join(self, below: list[_Subtree], depth: int) -> _Subtree:
        """An inner node over `below`, or a leaf if there are few enough entries."""
        total = sum(part.entries for part in below)
        if total > DIRECTORY_LEAF_ENTRIES_MAX:
            children = [part.child(self.put) for part in below]
            return _Subtree(total, self.put(encode_inner(children)))
        merged: Raws = {}
        for part in below:
            if part.leaf is not None:
                merged.update(part.leaf)
            elif part.entries:
                merged.update(_raws(part.digest, depth + 1, self.get))
        if len(merged) != total:
            raise CorruptionError(f"a directory node counts {total} entries for {len(merged)}")
        return _Subtree(total, leaf=merged)

    def build(self, raws: Raws, changes: list[Change], depth: int) -> _Subtree:
        """A leaf's entries after `changes`, split again where they are too many."""
        for _, name, raw in changes:
            if raw is None:
                raws.pop(name, None)
            else:
                raws[name] = raw
        if len(raws) <= DIRECTORY_LEAF_ENTRIES_MAX:
            return _Subtree(len(raws), leaf=raws)
        known = {name: key for key, name, _ in changes}
        items: list[Change] = [
            (known.get(name) or _key(name), name, raw) for name, raw in raws.items()
        ]
        return self.split(items, depth)

    def split(self, items: list[Change], depth: int) -> _Subtree:
        """A subtree of `items` (no removals) and nothing else."""
        if len(items) <= DIRECTORY_LEAF_ENTRIES_MAX:
            leaf = {name: raw for _, name, raw in items if raw is not None}
            return _Subtree(len(leaf), leaf=leaf)
        if depth >= DIRECTORY_DEPTH_MAX:
            raise CorruptionError("more names share one blake3 hash than a leaf holds")
        below = [self.split(part, depth + 1) for part in _partition(items, depth)]
        return self.join(below, depth)


def _partition(items: Iterable[Change], depth: int) -> list[list[Change]]:
    """The items by the hex digit of their hash at `depth`."""
    parts: list[list[Change]] = [[] for _ in range(DIRECTORY_FANOUT)]
    for item in items:
        parts[_NIBBLE[item[0][depth]]].append(item)
    return parts


def apply(root: bytes, changes: Mapping[bytes, Entry | None], get: Get, put: Put) -> bytes:
    """Root after setting (Entry) and removing (None) names; removing an absent name is no change.

    Reads and writes only the nodes on the changed names' paths.
    """
    items: list[Change] = [
        (_key(name), name, None if entry is None else encode_entry(entry))
        for name, entry in changes.items()
    ]
    return _Apply(get, put).subtree((root, 0), items, 0).child(put)[0] if items else root


def lookup(root: bytes, name: bytes, get: Get) -> Entry | None:
    """The entry of `name`, or None; reads one path."""
    digest, key = root, _key(name)
    for depth in range(DIRECTORY_DEPTH_MAX + 1):
        if digest == EMPTY:
            return None
        node = _read_shared(get(digest), digest, depth)
        if isinstance(node, dict):
            raw = node.get(name)
            return None if raw is None else decode_entry(raw)
        digest = node[_NIBBLE[key[depth]]][0]
    raise CorruptionError(f"directory {root.hex()} is deeper than a hash is long")


def _leaves(root: bytes, depth: int, get: Get) -> Iterator[Raws]:
    stack = [] if root == EMPTY else [(root, 0, depth)]
    while stack:
        digest, entries, at = stack.pop()
        node = _read(digest, at, get)
        if isinstance(node, dict):
            if entries and len(node) != entries:
                raise CorruptionError(f"directory leaf {digest.hex()} has not {entries} entries")
            yield node
            continue
        stack.extend((child, count, at + 1) for child, count in reversed(node) if count)


def _raws(root: bytes, depth: int, get: Get) -> Raws:
    return {name: raw for leaf in _leaves(root, depth, get) for name, raw in leaf.items()}


def entries(root: bytes, get: Get) -> Iterator[tuple[bytes, Entry]]:
    """Every name and its entry, in the order of the tree (by hash, then by name)."""
    for leaf in _leaves(root, 0, get):
        for name, raw in leaf.items():
            yield name, decode_entry(raw)


def count(root: bytes, get: Get) -> int:
    """Number of names, from one node."""
    if root == EMPTY:
        return 0
    node = _read(root, 0, get)
    return len(node) if isinstance(node, dict) else sum(entries for _, entries in node)


def diff(a: bytes, b: bytes, get: Get) -> Iterator[tuple[bytes, Entry | None, Entry | None]]:
    """(name, entry in `a` or None, entry in `b` or None) where they differ, in no fixed order.

    Equal subtrees are skipped unread.
    """
    for name, old, new in diff_encoded(a, b, get):
        yield name, decoded(old), decoded(new)


def decoded(raw: bytes | None) -> Entry | None:
    """An entry of `diff_encoded`."""
    return None if raw is None else decode_entry(raw)


def diff_encoded(
    a: bytes, b: bytes, get: Get
) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    """As `diff`, with encoded entries, for callers that need only some of them."""
    stack: list[tuple[bytes | Raws, bytes | Raws, int]] = [(a, b, 0)]
    while stack:
        old, new, depth = stack.pop()
        if old == new:
            continue
        old_node, new_node = _side(old, depth, get), _side(new, depth, get)
        if isinstance(old_node, dict) and isinstance(new_node, dict):
            yield from _leaf_diff(old_node, new_node)
            continue
        olds, news = _fan(old_node, depth), _fan(new_node, depth)
        stack.extend((olds[i], news[i], depth + 1) for i in range(DIRECTORY_FANOUT))


def _side(side: bytes | Raws, depth: int, get: Get) -> Raws | list[Child]:
    if isinstance(side, dict):
        return side
    return {} if side == EMPTY else _read(side, depth, get)


def _fan(node: Raws | list[Child], depth: int) -> Sequence[bytes | Raws]:
    """A node's children; a leaf opposite an inner node is spread as if it were one."""
    if not isinstance(node, dict):
        return [digest for digest, _ in node]
    fan: list[Raws] = [{} for _ in range(DIRECTORY_FANOUT)]
    for name, raw in node.items():
        fan[_NIBBLE[_key(name)[depth]]][name] = raw
    return fan


def _leaf_diff(old: Raws, new: Raws) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    for name in old.keys() | new.keys():
        before, after = old.get(name), new.get(name)
        if before != after:
            yield name, before, after
