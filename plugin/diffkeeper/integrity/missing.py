"""Which files of which snapshots need objects that are damaged or missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diffkeeper import limits
from diffkeeper.errors import CorruptionError, NotFoundError
from diffkeeper.format import merkle
from diffkeeper.format.entry import EMPTY
from diffkeeper.format.ids import ObjectId, Root
from diffkeeper.hashing import SHORT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from diffkeeper.store.store import Store


@dataclass(frozen=True, slots=True)
class Loss:
    """One object that a path needs. The path of a directory ends in a slash."""

    path: bytes
    id: ObjectId


@dataclass(frozen=True, slots=True)
class _Part:
    """An object to visit. `path`: of the file or directory that it belongs to."""

    path: bytes
    ref: merkle.Ref


@dataclass(slots=True)
class _Leaving:
    """Marks the end of what is below a node."""

    digest: bytes
    losses: int


@dataclass(slots=True)
class MissingObjects:
    """Walks one snapshot after the other. Subtrees that were found whole are skipped, as long as
    they are remembered. `lost`: returns those of some digests that cannot be read.
    """

    store: Store
    lost: Callable[[set[bytes]], set[bytes]]
    _whole: set[bytes] = field(default_factory=set)

    def of(self, root: Root) -> Iterator[Loss | None]:
        """Missing objects of one snapshot; None now and then, where the caller may pause."""
        found = 0
        stack: list[_Part | _Leaving] = []
        if root != EMPTY:
            stack.append(_Part(b"", merkle.snapshot_root(root)))
        if self.lost({root}):
            yield Loss(b"/", ObjectId.node(root))
            return
        while stack:
            at = stack.pop()
            if isinstance(at, _Leaving):
                if at.losses == found:
                    self._remember(at.digest)
                continue
            try:
                below = self._below(at)
            except (CorruptionError, NotFoundError):
                found += 1
                yield Loss(at.path or b"/", at.ref.id)
                continue
            lost = self.lost({each.ref.digest for each in below})
            stack.append(_Leaving(at.ref.digest, found))
            for each in below:
                if each.ref.digest in lost:
                    found += 1
                    yield Loss(each.path, each.ref.id)
                elif each.ref.is_node and each.ref.digest[:SHORT_BYTES] not in self._whole:
                    stack.append(each)
            yield None

    def _below(self, at: _Part) -> list[_Part]:
        encoded = self.store.node(at.ref.digest)
        return [_Part(at.path + ref.name, ref) for ref in merkle.references(at.ref, encoded)]

    def _remember(self, digest: bytes) -> None:
        if len(self._whole) >= limits.MARK_REMEMBERED_MAX:
            self._whole.clear()
        self._whole.add(digest[:SHORT_BYTES])
