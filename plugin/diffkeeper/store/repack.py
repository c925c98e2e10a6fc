"""Steps that keep a store small, each a short transaction; `space.maintenance` calls them.

The only garbage that is decided on here are copies of an object other than the one that is found.
Every step leaves a valid store, and may be repeated.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from diffkeeper.errors import CorruptionError, NotFoundError
from diffkeeper.format import chunk, pack
from diffkeeper.format.ids import ObjectId, ObjectKind
from diffkeeper.limits import KIB, MERGE_OBJECTS, REPACK_LEVEL, STORE_PAGE_RECORDS_MAX
from diffkeeper.store import tables
from diffkeeper.store.objects import packed
from diffkeeper.store.pack_index import pack_of, place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from diffkeeper.store.environment import Environment
    from diffkeeper.store.objects import Objects
    from diffkeeper.store.transaction import Transaction
    from diffkeeper.store.writer import Made, Writer

    Lives = Callable[[Transaction, int, pack.PackDirectory], list[int]]
    Stays = Callable[[Transaction, bytes], bool]

CARRY_OBJECTS = 64  # in one transaction
PACK_DEAD_FRACTION_MAX = 0.15  # more garbage than that is worth copying the rest
PACK_SMALL_BYTES = 64 * KIB  # smaller packs are put together, whatever is dead in them

_PLACE_BYTES = 64  # that a place may add to the table, at most


class Repack:
    """The steps. Maintenance calls them, one thread at a time, beside readers and commits; `merge`
    is also called by commits.
    """

    def __init__(self, environment: Environment, objects: Objects, writer: Writer) -> None:
        self._environment = environment
        self._objects = objects
        self._writer = writer
        # Something may be unreachable: unknown after a start.
        self.garbage = True
        self.urgent = False  # collect garbage at once: space is short
        self.suspected = False  # a capture or a collection met damage: a scrub is due
        self.unremovable = ""  # why a pack stays that is not needed any more
        self.relocated_bytes = 0
        self.removed_packs = 0

    # Places

    def check_pack_index(self) -> Iterator[None]:
        """In steps, check that the table of places is whole before anything is written to it.

        CorruptionError if it is damaged.
        """
        while not self._environment.check_pack_index():
            yield

    def merge(self) -> bool:
        """Write some recent places to the table; true when none is left."""
        if not len(self._objects.pack_index):
            return True
        for _ in self.check_pack_index():
            pass
        done = False

        def act(txn: Transaction) -> Made:
            nonlocal done
            done = self._objects.pack_index.merge(txn, MERGE_OBJECTS)
            return []

        def merged() -> None:
            self._objects.pack_index.merged(MERGE_OBJECTS)

        self._writer.commit(act, MERGE_OBJECTS * _PLACE_BYTES, "merge", merged)
        return done

    def prune_pack_index(self) -> Iterator[int]:
        """Remove the places of packs that are gone, step by step; yields how many were removed."""
        for _ in self.check_pack_index():
            yield 0
        at = b""
        while True:
            with self._environment.read() as txn:
                page = txn.scan(tables.PLACES, at, tables.END, 4 * STORE_PAGE_RECORDS_MAX)
                known: dict[int, bool] = {}
                gone = [key for key, raw in page if not self._has_pack(txn, raw, known)]
            if gone:
                self._writer.commit(partial(_without, gone), 0, "places")
            yield len(gone)
            if not page:
                return
            at = page[-1][0] + b"\0"

    def _has_pack(self, txn: Transaction, raw: bytes, known: dict[int, bool]) -> bool:
        number = pack_of(int.from_bytes(raw, "little"))
        if number not in known:
            known[number] = txn.get(tables.PACKS, tables.id_key(number)) is not None
        return known[number]

    def restore_pack_index(self) -> Iterator[None]:
        """Give objects that are found nowhere a place in a pack that contains them, step by step.

        Releases before the mark `places_checked` could lose places. Once for each store.
        """
        with self._environment.read() as txn:
            if txn.number(tables.META, tables.META_PLACES_CHECKED):
                return
        yield from self.check_pack_index()
        high = self._objects.next_pack
        while high > 0:  # the newest copy is the one that has to be found
            low = max(0, high - STORE_PAGE_RECORDS_MAX)
            for number in reversed([each for each in self.packs(low) if each < high]):
                self._restore_pack_index(number)
                yield
            high = low
        self._writer.commit(_mark_pack_index_checked, 0, "places")

    def _restore_pack_index(self, number: int) -> None:
        with self._environment.read() as txn:
            directory = self._objects.directory(txn, number)
            if directory is None or not self._unplaced(txn, directory):
                return

        def act(txn: Transaction) -> Made:
            for slot in self._unplaced(txn, directory):
                self._objects.pack_index.write(txn, directory.digest(slot), place(number, slot))
            return []

        self._writer.commit(act, directory.objects * _PLACE_BYTES, "places")

    def _unplaced(self, txn: Transaction, directory: pack.PackDirectory) -> list[int]:
        """Slots of the objects that are found nowhere."""
        find = self._objects.pack_index.find
        found = enumerate(directory.digests())
        return [slot for slot, digest in found if find(txn, digest) is None]

    # Objects of older formats

    def carry(self) -> Iterator[None]:
        """Pack objects that an older format stored one by one, step by step."""
        for kind, table in tables.SINGLES.items():
            at = b""
            while True:
                with self._environment.read() as txn:
                    page = txn.scan(table, at, tables.END, CARRY_OBJECTS)
                if not page:
                    break
                self._carry(kind, page)
                yield
                at = page[-1][0] + b"\0"

    def _carry(self, kind: ObjectKind, page: list[tuple[bytes, bytes]]) -> None:
        table, size = tables.SINGLES[kind], 0
        builder = pack.Builder(REPACK_LEVEL)
        taken: list[bytes] = []
        for digest, stored in page:
            try:
                each = ObjectId(kind, digest)
                builder.add(each, self._objects.plain(each))
            except CorruptionError:
                continue  # a damaged object stays where it is, for the scrub to report
            taken.append(digest)
            size += len(stored)
        packs = packed(builder.finish())

        def act(txn: Transaction) -> Made:
            plain = stored = 0
            for digest in taken:
                raw = txn.get(table, digest)
                if raw is not None:
                    stored += len(raw)
                    plain += chunk.plain_length(raw)
                txn.delete(table, digest)
            count = len(taken)
            nodes = [0, 0, -count, -stored]
            change = nodes if kind is ObjectKind.NODE else [-count, -plain, 0, -stored]
            self._objects.count(txn, change)
            return self._objects.put(txn, packs)

        self._writer.commit(act, 2 * size, "carry")

    # Signatures

    def forget_signatures(self, stale: list[tuple[bytes, bytes]]) -> None:
        """Remove rows of the table `index`, key and value, unless they changed meanwhile."""

        def act(txn: Transaction) -> Made:
            for key, raw in stale:
                if bytes(txn.get(tables.INDEX, key) or b"") == raw:
                    txn.delete(tables.INDEX, key)
            return []

        self._writer.commit(act, 0, "purge")

    # Packs

    def replace(self, frames: Sequence[pack.Frame], record: tuple[bytes, bytes] | None) -> None:
        """Store objects again in other packs; they are found there from now on.

        `record`: a row of the table `progress` for the same transaction.
        """
        packs = packed(frames)

        def act(txn: Transaction) -> Made:
            if record is not None:
                txn.put(tables.PROGRESS, *record)
            return self._objects.put(txn, packs)

        self._writer.commit(act, sum(frame.stored_bytes for frame in frames), "replace")

    def progress(self, volume_id: int) -> tuple[int, int]:
        """(seq, round) that the last `replace` for the volume recorded; zeros at first."""
        with self._environment.read() as txn:
            raw = txn.get(tables.PROGRESS, tables.id_key(volume_id))
            value = bytes(raw) if raw is not None else b""
        return int.from_bytes(value[:8], "little"), int.from_bytes(value[8:16], "little")

    def packs(self, start: int = 0) -> list[int]:
        """Numbers of some packs from `start` on, in order; empty at the end."""
        with self._environment.read() as txn:
            keys = txn.keys(tables.PACKS, tables.id_key(start), STORE_PAGE_RECORDS_MAX)
        return [int.from_bytes(key, "big") for key in keys]

    def found_here(self, txn: Transaction, number: int, directory: pack.PackDirectory) -> list[int]:
        """Slots of the objects of a pack that have no newer copy.

        An object that is found nowhere has lost its place: this copy may be the only one.
        """
        find = self._objects.pack_index.find
        return [
            slot
            for slot, digest in enumerate(directory.digests())
            if find(txn, digest) in (None, place(number, slot))
        ]

    def sweep(self, number: int, lives: Lives, *, stays: Stays | None = None) -> bool:
        """Remove a pack without live objects, or move the live ones away if there are few.

        `lives` returns the slots of the live ones, and is called again in the transaction, in which
        nothing moves: places may be merged meanwhile. `stays`: whether an object is needed for its
        own sake, and not only as a base; deltas are rebased on such objects, so that an object that
        is only a base is garbage the next time. False when the pack stays.
        """
        with self._environment.read() as txn:
            directory = self._objects.directory(txn, number)
            if directory is None:
                return False  # gone, or damaged: for the scrub to report
            live = lives(txn, number, directory)
            try:
                bases = self._better_bases(txn, directory, live, stays) if stays else {}
            except CorruptionError:
                return False
        if not bases and not self._worth(directory, live):
            return False
        frames = self._packed_anew(directory, live, bases)
        if frames is None:
            return False
        self.garbage = self.garbage or bool(bases)
        moved = False
        packs = packed(frames)

        def act(txn: Transaction) -> Made:
            nonlocal moved
            if lives(txn, number, directory) != live:
                return []  # relied on, or moved, meanwhile: the next collection handles it
            moved = True
            self._objects.remove(txn, number, directory)
            return self._objects.put(txn, packs)

        size = sum(frame.stored_bytes for frame in frames)
        try:
            self._writer.commit(act, size, "sweep")
        except CorruptionError as error:
            # Its pages cannot be freed; all others can.
            self.unremovable = str(error)
            return False
        if moved:
            self.removed_packs += 1
            self.relocated_bytes += size
        return moved

    def _worth(self, directory: pack.PackDirectory, live: list[int]) -> bool:
        if len(live) == directory.objects:
            return False
        total = sum(directory.lengths)
        alive = sum(directory.lengths[slot] for slot in live)
        small = directory.stored_bytes() < PACK_SMALL_BYTES
        return small or alive < (1 - PACK_DEAD_FRACTION_MAX) * total

    def _better_bases(
        self, txn: Transaction, directory: pack.PackDirectory, live: list[int], stays: Stays
    ) -> dict[int, bytes | None]:
        """Slots of deltas on an object that is only a base: the next base below it that stays, if
        any.

        Nothing for a delta that is only a base itself: it goes once nothing depends on it.
        """
        found: dict[int, bytes | None] = {}
        for slot in live:
            base = directory.base_digest(slot)
            digest = directory.digest(slot)
            if base is None or stays(txn, base) or not stays(txn, digest):
                continue
            below = self._objects.bases(txn, digest)
            found[slot] = next((each for each in below if stays(txn, each)), None)
        return found

    def _packed_anew(
        self, directory: pack.PackDirectory, live: list[int], bases: dict[int, bytes | None]
    ) -> list[pack.Frame] | None:
        """Frames of the live objects; None when one of them is damaged, and the pack has to stay.

        A delta stays a delta, with the same base or the one in `bases` for its slot.
        """
        builder = pack.Builder(REPACK_LEVEL)
        try:
            for slot in live:
                each = directory.id(slot)
                plain = self._objects.plain(each)
                base = bases.get(slot, directory.base_digest(slot))
                delta = b""
                if base is not None:
                    below = self._objects.plain(self._objects.identify(base))
                    delta = pack.xor(plain, below)
                if base is None or (slot in bases and not pack.pays(delta, each.kind)):
                    builder.add(each, plain)
                else:
                    builder.add_delta(each, delta, base)
        except (CorruptionError, NotFoundError):
            return None
        return builder.finish()


def _mark_pack_index_checked(txn: Transaction) -> Made:
    txn.put(tables.META, tables.META_PLACES_CHECKED, tables.pack_u64(1))
    return []


def _without(keys: list[bytes], txn: Transaction) -> Made:
    for key in keys:
        txn.delete(tables.PLACES, key)
    return []
