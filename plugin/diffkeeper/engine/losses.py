"""Which files of which snapshots need objects that are damaged or gone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diffkeeper import limits
from diffkeeper.errors import CorruptionError, NotFoundError
from diffkeeper.format import dirnode, dirtree
from diffkeeper.format.entry import EMPTY, Entry, Kind, decode_entry
from diffkeeper.format.node import NodeType, node_type
from diffkeeper.format.root import decode_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from diffkeeper.store.store import Store

_KEY_BYTES = 16


@dataclass(frozen=True, slots=True)
class Loss:
    """One object that a path needs. The path of a directory ends in a slash."""

    path: bytes
    digest: bytes
    node: bool


@dataclass(frozen=True, slots=True)
class _Ref:
    """Something to look at. `path` is that of the file or directory that it is a part of."""

    path: bytes
    digest: bytes
    node: bool


@dataclass(slots=True)
class _Leaving:
    """All below a node was looked at."""

    digest: bytes
    losses: int


@dataclass(slots=True)
class Losses:
    """Looks at one snapshot after the other. Subtrees that were found whole are looked at once, as
    long as they are remembered. `lost`: those of some digests that cannot be read.
    """

    store: Store
    lost: Callable[[set[bytes]], set[bytes]]
    _whole: set[bytes] = field(default_factory=set)

    def of(self, root: bytes) -> Iterator[Loss | None]:
        """What a snapshot's root misses; None now and then, as a place to stop for a while."""
        found = 0
        stack: list[_Ref | _Leaving] = [_Ref(b"/", root, True)] if root != EMPTY else []
        if self.lost({root}):
            yield Loss(b"/", root, True)
            return
        while stack:
            at = stack.pop()
            if isinstance(at, _Leaving):
                if at.losses == found:
                    self._remember(at.digest)
                continue
            try:
                below = list(_below(at, self.store.node(at.digest)))
            except (CorruptionError, NotFoundError):
                found += 1
                yield Loss(at.path, at.digest, True)
                continue
            lost = self.lost({each.digest for each in below})
            stack.append(_Leaving(at.digest, found))
            for each in below:
                if each.digest in lost:
                    found += 1
                    yield Loss(each.path, each.digest, each.node)
                elif each.node and each.digest[:_KEY_BYTES] not in self._whole:
                    stack.append(each)
            yield None

    def _remember(self, digest: bytes) -> None:
        if len(self._whole) >= limits.MARK_REMEMBERED_MAX:
            self._whole.clear()
        self._whole.add(digest[:_KEY_BYTES])


def _below(at: _Ref, encoded: bytes) -> Iterator[_Ref]:
    """What a node refers to, each with its path."""
    kind = node_type(encoded)
    if kind == NodeType.DIRECTORY_LEAF:
        for name, raw in dirnode.decode_leaf(encoded).items():
            entry = decode_entry(raw)
            slash = b"/" if entry.kind is Kind.DIRECTORY else b""
            yield from _of_entry(at.path + name + slash, entry)
    elif kind == NodeType.ROOT:
        entry, links = decode_root(encoded)
        yield from _of_entry(b"/", entry)
        if links != EMPTY:
            yield _Ref(b"hard links/", links, True)
    else:
        for what, digest in dirtree.references(encoded):
            yield _Ref(at.path, digest, what == "node")


def _of_entry(path: bytes, entry: Entry) -> Iterator[_Ref]:
    for what, digest in dirtree.entry_references(entry):
        yield _Ref(path, digest, what == "node")
