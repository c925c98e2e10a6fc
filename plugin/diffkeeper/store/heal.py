"""Reads stored objects again from disk, past every cache, and stores good copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.errors import CorruptionError, NotFoundError
from diffkeeper.format import chunk, pack
from diffkeeper.format.ids import PLAIN_BYTES_MAX, ObjectId
from diffkeeper.limits import REPACK_LEVEL, STORE_PAGE_RECORDS_MAX
from diffkeeper.store import tables
from diffkeeper.store.objects import packed
from diffkeeper.store.pack_index import pack_of, place

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from diffkeeper.store.environment import Environment
    from diffkeeper.store.objects import Objects
    from diffkeeper.store.transaction import Transaction
    from diffkeeper.store.writer import Made, Writer

Damaged = dict[bytes, str]  # digest to what is wrong with the copy that is found


class Healer:
    """Any thread may call; a pack that is removed meanwhile is skipped."""

    def __init__(self, environment: Environment, objects: Objects, writer: Writer) -> None:
        self._environment = environment
        self._objects = objects
        self._writer = writer

    def check(self, number: int) -> tuple[int, int, Damaged]:
        """(objects, plain bytes, damaged ones) of the objects that are found in this pack.

        CorruptionError when the pack's directory cannot be read.
        """
        raw = self._raw(number)
        if raw is None:
            return 0, 0, {}
        directory = pack.PackDirectory(raw)
        with self._environment.read() as txn:
            slots = self._here(txn, number, directory)
        damaged: Damaged = {}
        frame, content = -1, b""
        for slot in slots:
            try:
                if directory.frame(slot) != frame:
                    frame, content = directory.frame(slot), b""
                    content = directory.content(raw, frame)
                self._verified(directory, slot, directory.piece(slot, content))
            except (CorruptionError, NotFoundError) as error:
                damaged[directory.digest(slot)] = str(error)
        if damaged:
            # An object that was moved meanwhile is found elsewhere.
            with self._environment.read() as txn:
                still = {directory.digest(s) for s in self._here(txn, number, directory)}
            damaged = {digest: text for digest, text in damaged.items() if digest in still}
        return len(slots), sum(directory.lengths[slot] for slot in slots), damaged

    def _raw(self, number: int) -> bytes | None:
        with self._environment.read() as txn:
            raw = txn.get(tables.PACKS, tables.id_key(number))
            return bytes(raw) if raw is not None else None

    def _here(self, txn: Transaction, number: int, directory: pack.PackDirectory) -> list[int]:
        find = self._objects.pack_index.find
        digests = enumerate(directory.digests())
        return [slot for slot, digest in digests if find(txn, digest) == place(number, slot)]

    def _verified(self, directory: pack.PackDirectory, slot: int, piece: bytes) -> bytes:
        """The object whose bytes in its frame are `piece`; CorruptionError."""
        base = directory.base_digest(slot)
        if base is not None:
            try:
                below = self._objects.plain(self._objects.identify(base))
            except (CorruptionError, NotFoundError) as error:
                raise CorruptionError(f"it is a delta, and its base: {error}") from None
            piece = pack.xor(piece, below)
        wanted = directory.id(slot)
        if ObjectId.of(wanted.kind, piece) != wanted:
            raise CorruptionError("its content is not that of its digest")
        return piece

    def singles(self) -> Iterator[tuple[int, int, Damaged]]:
        """As `check`, for objects that an older format stored one by one, some at a time."""
        for kind, table in tables.SINGLES.items():
            at = b""
            while True:
                with self._environment.read() as txn:
                    page = txn.scan(table, at, tables.END, STORE_PAGE_RECORDS_MAX // 16)
                    unpacked = [k for k, _ in page if self._objects.pack_index.find(txn, k) is None]
                if not page:
                    break
                stored = dict(page)
                damaged = {
                    key: "it does not decode to the content of its digest"
                    for key in unpacked
                    if _plain(ObjectId(kind, key), stored[key]) is None
                }
                yield len(unpacked), sum(len(stored[key]) for key in unpacked), damaged
                at = page[-1][0] + b"\0"

    def absent(self, digests: Iterable[bytes], unreadable: set[int]) -> set[bytes]:
        """Digests that are not found, or only in a pack of the `unreadable` ones."""
        gone = self._absent(digests, unreadable)
        if gone:
            with self._objects.lock:  # it may have moved during the first look-up
                gone = self._absent(gone, unreadable)
        return gone

    def _absent(self, digests: Iterable[bytes], unreadable: set[int]) -> set[bytes]:
        gone: set[bytes] = set()
        with self._environment.read() as txn:
            for digest in digests:
                at = self._objects.pack_index.find(txn, digest)
                there = at is not None and pack_of(at) not in unreadable
                singly = (txn.get(t, digest) is not None for t in tables.SINGLES.values())
                if not there and not any(singly):
                    gone.add(digest)
        return gone

    def copies(self, wanted: set[bytes], number: int) -> Iterator[tuple[ObjectId, bytes]]:
        """Good copies of objects in one pack, found there or not, as plain content.

        If a delta would be one but for its missing base, the base is added to `wanted`, for another
        pass.
        """
        raw = self._raw(number)
        try:
            directory = pack.PackDirectory(raw) if raw is not None else None
        except CorruptionError:
            return
        if raw is None or directory is None:
            return
        for slot, digest in enumerate(directory.digests()):
            if digest in wanted:
                found = self._copy(raw, directory, slot)
                if found is not None:
                    yield directory.id(slot), found
                base = directory.base_digest(slot)
                if found is None and base is not None and self.absent({base}, set()):
                    wanted.add(base)

    def single_copies(self, wanted: set[bytes]) -> Iterator[tuple[ObjectId, bytes]]:
        """As `copies`, for objects that an older format stored one by one."""
        for kind, table in tables.SINGLES.items():
            for each in (ObjectId(kind, digest) for digest in wanted):
                with self._environment.read() as txn:
                    stored = bytes(txn.get(table, each.digest) or b"")
                plain = _plain(each, stored) if stored else None
                if plain is not None:
                    yield each, plain

    def _copy(self, raw: bytes, directory: pack.PackDirectory, slot: int) -> bytes | None:
        try:
            piece = directory.piece(slot, directory.content(raw, directory.frame(slot)))
            return self._verified(directory, slot, piece)
        except (CorruptionError, NotFoundError):
            return None

    def heal(self, found: Mapping[ObjectId, bytes]) -> None:
        """Store good copies, each equal to its digest; they are found from now on."""
        builder = pack.Builder(REPACK_LEVEL)
        for each, plain in found.items():
            builder.add(each, plain)
        packs = packed(builder.finish())

        def act(txn: Transaction) -> Made:
            return self._objects.put(txn, packs)

        self._writer.commit(act, sum(len(each.raw) for each in packs), "heal")

    def drop(self, number: int) -> None:
        """Remove a pack that cannot be read, and that nothing needs."""

        def act(txn: Transaction) -> Made:
            self._objects.drop(txn, number)
            return []

        self._writer.commit(act, 0, "heal")


def _plain(wanted: ObjectId, stored: bytes) -> bytes | None:
    """The content of an object, or None if what is stored is something else."""
    try:
        plain = chunk.decode(stored, PLAIN_BYTES_MAX[wanted.kind])
    except CorruptionError:
        return None
    return plain if ObjectId.of(wanted.kind, plain) == wanted else None
