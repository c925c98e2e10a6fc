"""Versions that a later snapshot replaced (`merkle.pairs` finds them), stored as deltas.

A version is encoded against its successor, the object at the same place of the next snapshot that
differs there: the newest stays whole. A base is whole at that time, and only whole objects become
deltas, so deltas can never form a circle, whatever content comes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.errors import CorruptionError, NotFoundError
from diffkeeper.format import pack
from diffkeeper.limits import PACK_BYTES, REPACK_LEVEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffkeeper.format.ids import ObjectId
    from diffkeeper.store.store import Store

DELTA_LINKS_MAX = 16
DELTA_ROUNDS_MAX = 16


class Successors:
    """Old version to new one, over a run of snapshots; never in a circle."""

    def __init__(self) -> None:
        self._next: dict[ObjectId, ObjectId] = {}

    def __len__(self) -> int:
        """Number of versions that have a successor."""
        return len(self._next)

    def add(self, old: ObjectId, new: ObjectId) -> None:
        """Record that `new` replaced `old`. A version that comes back is no old one any more."""
        self._next.pop(new, None)
        if old not in self._next:
            self._next[old] = new

    def chains(self) -> Iterator[list[ObjectId]]:
        """Versions oldest first, each with the next one as its successor.

        The last one of a chain has no successor, or is in an earlier chain.
        """
        later = set(self._next.values())
        done: set[ObjectId] = set()
        for start in self._next:
            if start in later:
                continue
            chain = [start]
            while chain[-1] in self._next and chain[-1] not in done:
                done.add(chain[-1])
                chain.append(self._next[chain[-1]])
            yield chain


class DeltaEncoder:
    """Encodes chains of versions, newest first. `frames` have to be stored then."""

    def __init__(self, store: Store, round_number: int) -> None:
        self._store = store
        self._objects = store.objects
        # Rounds build on each other: in every so many the links between them stay whole.
        self._whole = round_number % DELTA_ROUNDS_MAX == 0
        self._builder = pack.Builder(REPACK_LEVEL)
        self.packs: set[int] = set()  # that contained what was encoded
        self.deltas = 0

    def chain(self, versions: list[ObjectId]) -> None:
        """Encode one chain, oldest first; its last version stays as it is, damaged ones are
        skipped.
        """
        try:
            base = self._objects.plain(versions[-1])
        except (CorruptionError, NotFoundError):
            return
        usable = self._objects.home(versions[-1].digest) is not None and not self._whole
        for link, each in enumerate(reversed(versions[:-1]), 1):
            home = self._objects.home(each.digest)
            try:
                plain = self._objects.plain(each)
            except (CorruptionError, NotFoundError):
                return
            if home is not None:
                linked = usable and link % DELTA_LINKS_MAX != 0
                self._put(each, plain, versions[-link], base if linked else b"")
                self.packs.add(home)
            base, usable = plain, home is not None

    def _put(self, each: ObjectId, plain: bytes, base: ObjectId, below: bytes) -> None:
        """Add a version; `below` is the content of its base, or empty if it stays whole."""
        delta = pack.xor(plain, below)
        if below and pack.pays(delta, each.kind):
            self._builder.add_delta(each, delta, base.digest)
            self.deltas += 1
        else:
            self._builder.add(each, plain)

    def frames(self, *, rest: bool = False) -> list[pack.Frame]:
        """Frames since the last call if they fill a pack, otherwise none; with `rest` all of
        them.
        """
        if rest:
            return self._builder.finish()
        return self._builder.full_frames(PACK_BYTES)
