"""Versions that a later snapshot replaced: found by comparing snapshots, stored as deltas.

A version is encoded against its successor, the object at the same place of the next snapshot that
differs there: the newest stays whole. A base is whole at the time, and only what is whole becomes a
delta, so that no deltas ever stand on each other in a circle, whatever comes back and goes again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.errors import CorruptionError, NotFoundError
from diffkeeper.format import filetree, pack
from diffkeeper.format.chunk import HOLE
from diffkeeper.format.dirnode import decode_inner, decode_leaf
from diffkeeper.format.entry import EMPTY, Entry, Kind, chunk_count, decode_entry
from diffkeeper.format.node import NodeType, node_type
from diffkeeper.format.root import decode_root
from diffkeeper.limits import (
    DELTA_LINKS_MAX,
    DELTA_ROUNDS_MAX,
    PACK_BYTES,
    UPKEEP_LEVEL,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffkeeper.store.store import Store

Pair = tuple[bytes, bytes, bool]  # old, new, whether they are nodes


def pairs(old: bytes, new: bytes, store: Store) -> Iterator[Pair]:
    """What differs between two snapshots' roots at the same place, in the order of the tree."""
    stack: list[Pair] = [(old, new, True)]
    while stack:
        before, after, node = stack.pop()
        if before == after or EMPTY in (before, after) or HOLE in (before, after):
            continue
        yield before, after, node
        if node:
            stack.extend(reversed(_below(store.node(before), store.node(after))))


def _below(old: bytes, new: bytes) -> list[Pair]:
    """What two nodes refer to at the same place; nothing where they are of different shape."""
    kind = node_type(old)
    if kind != node_type(new):
        return []
    if kind == NodeType.FILE:
        (level, olds), (other, news) = filetree.decode(old), filetree.decode(new)
        same = level == other
        return [(a, b, level > 1) for a, b in zip(olds, news, strict=False)] if same else []
    if kind == NodeType.DIRECTORY_INNER:
        children = zip(decode_inner(old), decode_inner(new), strict=True)
        return [(a[0], b[0], True) for a, b in children]
    if kind == NodeType.DIRECTORY_LEAF:
        before, after = decode_leaf(old), decode_leaf(new)
        both = [(raw, after[name]) for name, raw in before.items() if name in after]
        return [p for a, b in both if a != b for p in _entries(decode_entry(a), decode_entry(b))]
    if kind == NodeType.ROOT:
        (entry, links), (entry_new, links_new) = decode_root(old), decode_root(new)
        return [(links, links_new, True), *_entries(entry, entry_new)]
    return []


def _entries(old: Entry, new: Entry) -> list[Pair]:
    if old.kind != new.kind or old.chunk_bits != new.chunk_bits:
        return []
    if old.kind is not Kind.FILE:
        return [(old.content, new.content, True)]
    counts = chunk_count(old.size, old.chunk_bits), chunk_count(new.size, new.chunk_bits)
    if filetree.height(counts[0]) != filetree.height(counts[1]):
        return []
    return [(old.content, new.content, counts[0] > 1)]


class Successors:
    """Old version to new one, over a run of snapshots; never in a circle."""

    def __init__(self) -> None:
        self._next: dict[bytes, tuple[bytes, bool]] = {}

    def __len__(self) -> int:
        """Versions that have a successor."""
        return len(self._next)

    def add(self, old: bytes, new: bytes, node: bool) -> None:
        """`new` took the place of `old`. A version that comes back is no old one any more."""
        self._next.pop(new, None)
        if old not in self._next:
            self._next[old] = new, node

    def chains(self) -> Iterator[tuple[list[bytes], bool]]:
        """Versions oldest first, each with the next one as its successor, and whether nodes.

        The last one of a chain has none, or is the start or a middle one of a chain before.
        """
        later = {new for new, _ in self._next.values()}
        done: set[bytes] = set()
        for start, (_, node) in self._next.items():
            if start in later:
                continue
            chain = [start]
            while chain[-1] in self._next and chain[-1] not in done:
                done.add(chain[-1])
                chain.append(self._next[chain[-1]][0])
            yield chain, node


class Encoder:
    """Encodes chains of versions anew, newest first. `frames` are due in the store then."""

    def __init__(self, store: Store, round_number: int) -> None:
        self._store = store
        self._objects = store.objects
        # Rounds stand on each other: once in a while what links them stays whole.
        self._whole = round_number % DELTA_ROUNDS_MAX == 0
        self._builder = pack.Builder(UPKEEP_LEVEL)
        self.packs: set[int] = set()  # that hold what was encoded anew
        self.deltas = 0

    def chain(self, versions: list[bytes], node: bool) -> None:
        """One chain, oldest first; its last version stays as it is. Damaged ones are left alone."""
        try:
            base = self._objects.plain(versions[-1], node=node)
        except (CorruptionError, NotFoundError):
            return
        usable = self._objects.home(versions[-1]) is not None and not self._whole
        for link, digest in enumerate(reversed(versions[:-1]), 1):
            home = self._objects.home(digest)
            try:
                plain = self._objects.plain(digest, node=node)
            except (CorruptionError, NotFoundError):
                return
            if home is not None:
                linked = usable and link % DELTA_LINKS_MAX != 0
                self._put(digest, plain, versions[-link], base if linked else b"", node)
                self.packs.add(home)
            base, usable = plain, home is not None

    def _put(self, digest: bytes, plain: bytes, base: bytes, below: bytes, node: bool) -> None:
        """Add a version; `below` is the content of its base, or empty where it is to be whole."""
        delta = pack.xor(plain, below)
        if below and pack.pays(delta, node=node):
            self._builder.add_delta(digest, delta, base, node=node)
            self.deltas += 1
        else:
            self._builder.add(digest, plain, node=node)

    def frames(self, *, rest: bool = False) -> list[pack.Frame]:
        """Frames since the last call when they fill a pack, else none; with `rest` all of them."""
        if rest:
            return self._builder.finish()
        return self._builder.take(PACK_BYTES)
