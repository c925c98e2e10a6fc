"""Garbage collection: removes what no snapshot reaches. Exact, in short steps, beside other work.

1. From its start, `Objects.relied` is called for every object that a caller is told exists, and
   packs that are stored from now on are not touched by this collection.
2. Everything that the snapshots reach is marked: bits for each object, and the bases of deltas with
   them.
3. Signatures that name content which no snapshot reaches are removed, so that no capture builds on
   it.
4. Callers that are inside `Store.holding` until then are awaited: they may rely on objects that
   they were told of before.
5. Snapshots stored meanwhile are marked. At a moment without commits there are none left, and the
   sweep begins: whatever is committed from now on refers to what is marked or new.
6. Packs without a marked object are removed; from those with few, the marked ones are moved away.
   Deltas on what is only marked as a base are rebased, so that the next collection frees it.

Nothing of this is stored: a crash at any point leaves a valid store, and the next collection starts
again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.errors import CorruptionError, NotFoundError
from diffkeeper.format import merkle
from diffkeeper.format.entry import EMPTY
from diffkeeper.format.ids import ObjectKind, Root
from diffkeeper.format.records import IndexRecord, SnapshotRecord
from diffkeeper.limits import CHUNK_BYTES_MAX, MARK_REMEMBERED_MAX, STORE_PAGE_RECORDS_MAX
from diffkeeper.store import tables
from diffkeeper.store.marks import Mark, ObjectMarks
from diffkeeper.store.pack_index import SLOT_BITS, pack_of, slot_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from diffkeeper.format.pack import PackDirectory
    from diffkeeper.store.environment import Environment
    from diffkeeper.store.objects import Objects
    from diffkeeper.store.repack import Repack
    from diffkeeper.store.transaction import Transaction
    from diffkeeper.store.writer import Writer

MARK_NODES = 16  # in one step


class Collector:
    """One collection. `steps` runs it; closing that early is harmless."""

    def __init__(
        self,
        environment: Environment,
        objects: Objects,
        writer: Writer,
        repack: Repack,
        holders: Callable[[], frozenset[object]],
    ) -> None:
        """`holders`: callers that are inside `Store.holding` now."""
        self._environment = environment
        self._objects = objects
        self._writer = writer
        self._repack = repack
        self._holders = holders
        self._marks = ObjectMarks()
        self._remembered: set[bytes] = set()
        # Volume id to the number below which its snapshots are marked.
        self._upto: dict[int, int] = {}
        self._floor = 0
        self.damage = ""  # why nothing was swept
        self.awaited: frozenset[object] = frozenset()  # holders that it has to wait for
        self.marked = 0

    def steps(self) -> Iterator[None]:
        """The collection, step by step: each is short. While holders are `awaited`, a step does
        nothing.
        """
        with self._objects.lock:
            self._objects.relied = self._mark_place
            self._floor = self._objects.next_pack - 1
        self._repack.garbage = False
        finished = False
        try:
            yield from self._know_packs()
            yield from self._mark()
            yield from self._purge_signatures()
            self.awaited = self._holders()
            while self.awaited:
                yield
                self.awaited &= self._holders()
            while not self._all_marked():
                yield from self._mark()
            if not self.damage:
                yield from self._sweep()
            finished = True
        except (CorruptionError, NotFoundError) as error:
            # What a damaged node refers to is unknown, so nothing may be removed.
            self.damage = str(error)
        finally:
            self._repack.suspected = self._repack.suspected or bool(self.damage)
            self._repack.garbage = self._repack.garbage or bool(self.damage) or not finished
            with self._objects.lock:
                self._objects.relied = None

    # Marking

    def _know_packs(self) -> Iterator[None]:
        at = 0
        while numbers := [number for number in self._repack.packs(at) if number <= self._floor]:
            self._marks.add_packs(numbers)
            yield
            at = numbers[-1] + 1

    def _mark(self) -> Iterator[None]:
        for key, root in self._unmarked_roots():
            yield from self._walk(root)
            volume_id, seq = tables.pair_of(key)
            self._upto[volume_id] = seq

    def _unmarked_roots(self) -> Iterator[tuple[bytes, Root]]:
        at = b""
        while True:
            with self._environment.read() as txn:
                found = self._first_unmarked(txn, at)
            if found is None:
                return
            key, raw = found
            yield key, SnapshotRecord.decode(raw).root
            at = key + b"\0"

    def _first_unmarked(self, txn: Transaction, at: bytes) -> tuple[bytes, bytes] | None:
        """The first snapshot from the key `at` on that is not marked; one look-up for each
        volume.
        """
        while found := txn.first(tables.SNAPSHOTS, at):
            volume_id, seq = tables.pair_of(found[0])
            upto = self._upto.get(volume_id, -1)
            if seq > upto:
                return found[0], bytes(found[1])
            at = tables.pair_key(volume_id, upto) + b"\0"
        return None

    def _all_marked(self) -> bool:
        """Whether every snapshot is marked, at a moment without commits."""
        with self._writer.turn(maintenance=True), self._environment.read() as txn:
            return self._first_unmarked(txn, b"") is None

    def _walk(self, root: Root) -> Iterator[None]:
        """Mark a node and everything below it, some nodes at a time."""
        stack = [merkle.snapshot_root(root)] if root != EMPTY and self._enter(root) else []
        for count, ref in enumerate(_popped(stack), 1):
            encoded = self._objects.plain(ref.id)
            with self._objects.lock, self._environment.read() as txn:
                for each in merkle.references(ref, encoded):
                    if each.digest in self._remembered:
                        continue
                    self._remember(each.digest)
                    if self._mark_digest(txn, each.digest, enter=each.is_node):
                        stack.append(each)
            if count % MARK_NODES == 0:
                yield
        yield

    def _remember(self, digest: bytes) -> None:
        """Remember a digest: successive snapshots refer to the same objects, which saves
        look-ups.
        """
        if len(self._remembered) >= MARK_REMEMBERED_MAX:
            self._remembered.clear()
        self._remembered.add(digest)

    def _enter(self, digest: bytes) -> bool:
        with self._objects.lock, self._environment.read() as txn:
            return self._mark_digest(txn, digest, enter=True)

    def _mark_digest(self, txn: Transaction, digest: bytes, *, enter: bool) -> bool:
        """Mark an object; with `enter`, whether it is a node that was not entered before.

        A node may be marked and not entered: as a base, or because somebody relies on it.
        """
        at = self._objects.pack_index.find(txn, digest)
        if at is None:
            if not any(txn.get(t, digest) is not None for t in tables.SINGLES.values()):
                # It may be in a pack all the same, where a scrub finds it.
                self.damage = f"object {digest.hex()} is not in the store"
            return enter
        self._mark_place(txn, at)
        return enter and self._set(txn, Mark.ENTERED, at)

    def _mark_place(self, txn: Transaction, at: int) -> None:
        """Mark an object and, for a delta, its bases; the lock is held."""
        place: int | None = at
        self._set(txn, Mark.REACHED, at)
        while place is not None and self._set(txn, Mark.LIVE, place):
            self.marked += 1
            directory = self._objects.directory(txn, pack_of(place))
            if directory is None:
                # Its bases are unknown; whoever reads the object gets the error.
                self.damage = f"the directory of pack {pack_of(place)} is damaged"
                return
            base = directory.base_digest(slot_of(place))
            if base is None:
                return
            place = self._objects.pack_index.find(txn, base)
            if place is None:
                self.damage = f"object {base.hex()} is not in the store, and a delta stands on it"

    def _set(self, txn: Transaction, mark: Mark, at: int) -> bool:
        """Set a mark; false when it was set."""

        def objects() -> int:
            directory = self._objects.directory(txn, pack_of(at))
            return directory.objects if directory is not None else 1 << SLOT_BITS

        return self._marks.put(mark, pack_of(at), slot_of(at), objects)

    # Signatures

    def _purge_signatures(self) -> Iterator[None]:
        at = b""
        while True:
            with self._environment.read() as txn:
                page = txn.scan(tables.INDEX, at, tables.END, STORE_PAGE_RECORDS_MAX)
                stale = [(key, raw) for key, raw in page if self._is_stale(txn, raw)]
            if stale:
                self._repack.forget_signatures(stale)
            yield
            if not page:
                return
            at = page[-1][0] + b"\0"

    def _is_stale(self, txn: Transaction, raw: bytes) -> bool:
        record = IndexRecord.decode(raw)
        content, length = record.content, min(record.size, CHUNK_BYTES_MAX)
        if merkle.is_implied(content, length):
            return False  # empty, or a file of one chunk of zeros
        at = self._objects.pack_index.find(txn, content)
        if at is None:
            return not any(txn.get(t, content) is not None for t in tables.SINGLES.values())
        number, slot = pack_of(at), slot_of(at)
        directory = self._objects.directory(txn, number)
        # A node that is only a base stays without what it refers to.
        node = directory is not None and directory.kind(slot) is ObjectKind.NODE
        mark = Mark.ENTERED if node else Mark.REACHED
        return number <= self._floor and not self._marks.has(mark, number, slot)

    # Sweeping

    def _sweep(self) -> Iterator[None]:
        at = 0
        while True:
            numbers = [number for number in self._repack.packs(at) if number <= self._floor]
            for number in numbers:
                self._repack.sweep(number, self._lives, stays=self._stays)
                yield
            if not numbers:
                return
            at = numbers[-1] + 1

    def _stays(self, txn: Transaction, digest: bytes) -> bool:
        """Whether an object is reached, relied on or new, and not only a base."""
        at = self._objects.pack_index.find(txn, digest)
        if at is None:
            return True  # of an older format, or damaged
        number, slot = pack_of(at), slot_of(at)
        return number > self._floor or self._marks.has(Mark.REACHED, number, slot)

    def _lives(self, _txn: Transaction, number: int, directory: PackDirectory) -> list[int]:
        return self._marks.slots(Mark.LIVE, number, directory.objects)


def _popped(stack: list[merkle.Ref]) -> Iterator[merkle.Ref]:
    """Elements popped from the stack until it is empty; it may grow meanwhile."""
    while stack:
        yield stack.pop()
