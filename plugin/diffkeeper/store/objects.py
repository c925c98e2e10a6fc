"""Stored chunks and nodes: look-up, decoding, check against the digest, and packing.

Reads take no lock. A move (an object is packed again, or its old pack removed) holds `lock` from
before its commit until the places in memory are updated; a reader that finds nothing while
something moves looks again under the lock. During a garbage collection, `relied` is called under
the same lock for every object that a caller is told exists: what is relied on is never swept.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffkeeper.errors import CorruptionError, InvalidInputError, NotFoundError
from diffkeeper.format import chunk, pack
from diffkeeper.format.ids import PLAIN_BYTES_MAX, ObjectId, ObjectKind, digest_of
from diffkeeper.hashing import DIGEST_BYTES
from diffkeeper.limits import MIB, NODE_CACHE_ENTRIES_MAX, PACK_BYTES
from diffkeeper.store import tables
from diffkeeper.store.lru import Lru
from diffkeeper.store.pack_index import PackIndex, pack_of, place, slot_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from diffkeeper.hashing import BytesLike
    from diffkeeper.store.environment import Environment
    from diffkeeper.store.transaction import Transaction

NODE_CACHE_BYTES_MAX = 32 * MIB
FRAME_CACHE_BYTES_MAX = 24 * MIB
DIRECTORY_CACHE_OBJECTS_MAX = 131_072
BASES_MAX = 65_536  # from a delta to a whole object, at most

_ATTEMPTS_MAX = 8


@dataclass(frozen=True, slots=True)
class Packed:
    """A pack without a number: its bytes, its objects in order, what it adds to the totals."""

    raw: bytes
    digests: list[bytes]
    counts: tuple[int, int, int, int]


class _Moved(Exception):
    """A pack is not in this transaction: its objects were moved, or are absent."""


class _BaseMoved(_Moved):
    """The base of a delta is not in this transaction: it was moved, or is absent."""


class Objects:
    """All objects of a store. Call `load` first; any thread may read, writers take turns.

    places: the pack index; lock: held for a move, see above; relied: during a collection it is
    called for the place of every object that a caller relies on, else None.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._nodes: Lru[bytes, bytes] = Lru(NODE_CACHE_ENTRIES_MAX, NODE_CACHE_BYTES_MAX)
        self._frames: Lru[tuple[int, int], bytes] = Lru(weight_max=FRAME_CACHE_BYTES_MAX)
        self._directories: Lru[int, pack.PackDirectory] = Lru(
            weight_max=DIRECTORY_CACHE_OBJECTS_MAX
        )
        self.pack_index = PackIndex(self.directory)
        self.lock = threading.Lock()
        self._moves = 0  # odd while something moves
        # Tables of single objects of older formats that have any; nothing is added to them.
        self._singles: list[tables.Table] = []
        self.relied: Callable[[Transaction, int], None] | None = None

    def load(self) -> None:
        """Read the places that are not in the table; a damaged pack has none."""
        with self._environment.read() as txn:
            raw = txn.get(tables.META, tables.META_PLACES_UPTO)
            at = int.from_bytes(raw, "little") + 1 if raw is not None else 1
            self._singles = [t for t in tables.SINGLES.values() if txn.first(t, b"\0")]
        self.pack_index.next_pack = at
        while True:
            with self._environment.read() as txn:
                found = txn.first(tables.PACKS, tables.id_key(at))
                if found is None:
                    return
                at = int.from_bytes(found[0], "big")
                self.pack_index.next_pack = at + 1
                # The objects of a damaged pack are absent; a scrub names what needs them.
                with suppress(CorruptionError):
                    self.pack_index.add(at, pack.PackDirectory(found[1]).digests())
            at += 1

    # Reading

    def plain(self, wanted: ObjectId) -> bytes:
        """Plain content, checked against its digest; NotFoundError, CorruptionError."""
        kind, digest = wanted
        if kind is ObjectKind.NODE:
            cached = self._nodes.get(digest)
            if cached is not None:
                return cached
        plain = self._find_plain(wanted)
        found = digest_of(kind, plain)
        if found != digest:
            self._blame(digest)
            raise CorruptionError(f"{wanted} holds content of {found.hex()}")
        if kind is ObjectKind.NODE:
            self._nodes.put(digest, plain, len(plain))
        return plain

    def _find_plain(self, wanted: ObjectId) -> bytes:
        for attempt in range(_ATTEMPTS_MAX):
            with self._held_still(attempt > 0), self._environment.read() as txn:
                try:
                    plain = self._plain_in(txn, wanted)
                except _BaseMoved as error:
                    if attempt == 0:
                        continue
                    raise CorruptionError(f"{wanted}: {error}") from None
                except _Moved:
                    continue
                if plain is not None:
                    return plain
                if not self._moves & 1 and attempt:
                    break
        raise NotFoundError(f"{wanted} is not in the store")

    @contextmanager
    def _held_still(self, wanted: bool) -> Iterator[None]:
        """With `wanted`, nothing moves inside the block."""
        if wanted:
            with self.lock:
                yield
        else:
            yield

    def _plain_in(self, txn: Transaction, wanted: ObjectId) -> bytes | None:
        at = self.pack_index.find(txn, wanted.digest)
        if at is None:
            stored = txn.get(tables.SINGLES[wanted.kind], wanted.digest)
            return None if stored is None else _decoded(wanted, stored)
        directory = self._require(txn, pack_of(at))
        if directory.kind(slot_of(at)) is not wanted.kind:
            return None
        try:
            return self._resolved(txn, at)
        except CorruptionError as error:
            raise CorruptionError(f"{wanted}: {error}") from None

    def _resolved(self, txn: Transaction, at: int) -> bytes:
        """The object at a place, decoded with its bases down to a whole one."""
        mixed = self._piece(txn, at)
        length = limit = len(mixed)
        for _ in range(BASES_MAX):
            below = self._base(txn, at)
            if below is None:
                return mixed.ljust(length, b"\0")
            piece = self._piece(txn, below)
            limit = min(limit, len(piece))
            mixed = pack.xor(mixed, piece[:limit])
            at = below
        raise CorruptionError(f"more than {BASES_MAX} deltas stand on each other")

    def _base(self, txn: Transaction, at: int) -> int | None:
        base = self._require(txn, pack_of(at)).base(slot_of(at))
        if not isinstance(base, bytes):
            return None if base is None else place(pack_of(at), base)
        found = self.pack_index.find(txn, base)
        if found is None:
            raise _BaseMoved(f"its base {base.hex()} is not in the store")
        return found

    def _piece(self, txn: Transaction, at: int) -> bytes:
        number, slot = pack_of(at), slot_of(at)
        directory = self._require(txn, number)
        frame = directory.frame(slot)
        content = self._frames.get((number, frame))
        if content is None:
            raw = txn.get(tables.PACKS, tables.id_key(number))
            if raw is None:
                raise _Moved
            try:
                content = directory.content(raw, frame)
            except CorruptionError as error:
                raise CorruptionError(f"frame {frame} of pack {number}: {error}") from None
            self._frames.put((number, frame), content, len(content))
        return directory.piece(slot, content)

    def directory(self, txn: Transaction, number: int) -> pack.PackDirectory | None:
        """The directory of a pack; None when the pack is gone, or cannot be read."""
        found = self._directories.get(number)
        if found is None:
            raw = txn.get(tables.PACKS, tables.id_key(number))
            if raw is None:
                return None
            try:
                found = pack.PackDirectory(raw)
            except CorruptionError:
                return None
            self._directories.put(number, found, found.objects)
        return found

    def _require(self, txn: Transaction, number: int) -> pack.PackDirectory:
        found = self.directory(txn, number)
        if found is None:
            if txn.get(tables.PACKS, tables.id_key(number)) is not None:
                raise CorruptionError(f"the directory of pack {number} is damaged")
            raise _Moved
        return found

    def _blame(self, digest: bytes) -> None:
        """CorruptionError that names the damaged base of a delta, if it has one."""
        with self.lock, self._environment.read() as txn:
            at = self.pack_index.find(txn, digest)
            base = None
            if at is not None:
                base = self._require(txn, pack_of(at)).base_digest(slot_of(at))
        if base is None:
            return
        below = self.identify(base)
        try:
            plain = self._find_plain(below)
        except (CorruptionError, NotFoundError) as error:
            raise CorruptionError(f"{digest.hex()} is a delta, and its base {error}") from None
        if ObjectId.of(below.kind, plain) != below:
            raise CorruptionError(f"{digest.hex()} is a delta whose base {base.hex()} is damaged")

    def bases(self, txn: Transaction, digest: bytes) -> Iterator[bytes]:
        """The bases of a delta, down to a whole object; CorruptionError."""
        at = self.pack_index.find(txn, digest)
        for _ in range(BASES_MAX):
            base = None
            if at is not None:
                base = self._require(txn, pack_of(at)).base_digest(slot_of(at))
            if base is None:
                return
            yield base
            at = self.pack_index.find(txn, base)

    def identify(self, digest: bytes) -> ObjectId:
        """Id of the object with this digest, of either kind; NotFoundError."""
        with self.lock, self._environment.read() as txn:
            at = self.pack_index.find(txn, digest)
            if at is not None:
                return ObjectId(self._require(txn, pack_of(at)).kind(slot_of(at)), digest)
            for kind, table in tables.SINGLES.items():
                if txn.get(table, digest) is not None:
                    return ObjectId(kind, digest)
        raise NotFoundError(f"object {digest.hex()} is not in the store")

    def home(self, digest: bytes) -> int | None:
        """The pack that contains an object whole; None when it is a delta, or in no pack."""
        with self.lock, self._environment.read() as txn:
            at = self.pack_index.find(txn, digest)
            if at is None or self._require(txn, pack_of(at)).base(slot_of(at)) is not None:
                return None
            return pack_of(at)

    def stored(self, wanted: ObjectId) -> bytes:
        """The object in an encoding of its own, see `chunk.encode`; checked."""
        return chunk.encode(self.plain(wanted), 1)

    def stored_bytes(self, digest: bytes) -> int:
        """Bytes that an object takes in the store: its share of its frame, and its digest."""
        for attempt in range(_ATTEMPTS_MAX):
            with self._held_still(attempt > 0), self._environment.read() as txn:
                at = self.pack_index.find(txn, digest)
                if at is not None:
                    return self._require(txn, pack_of(at)).share(slot_of(at))
                for table in tables.SINGLES.values():
                    stored = txn.get(table, digest)
                    if stored is not None:
                        return len(stored)
                if attempt:
                    break
        raise NotFoundError(f"object {digest.hex()} is not in the store")

    def absent(self, digests: Iterable[bytes]) -> set[bytes]:
        """Digests that no object has; those that exist are relied on from now on."""
        wanted = set(digests)
        if self.relied is not None:
            with self.lock:
                return self._absent(wanted)
        before = self._moves
        found = self._absent(wanted)
        if found and (before & 1 or self._moves != before):
            with self.lock:
                return self._absent(found)
        return found

    def _absent(self, digests: set[bytes]) -> set[bytes]:
        with self._environment.read() as txn:
            return {digest for digest in digests if not self.is_there(txn, digest)}

    def is_there(self, txn: Transaction, digest: bytes) -> bool:
        """Whether an object has this digest; during a collection it is relied on then.

        A delta that nothing needed may be left in its pack while its base is collected: it does not
        exist any more either.
        """
        at = self.pack_index.find(txn, digest)
        if at is None or not self._stands(txn, at):
            return any(txn.get(table, digest) is not None for table in self._singles)
        if self.relied is not None:
            self.relied(txn, at)
        return True

    def _stands(self, txn: Transaction, at: int) -> bool:
        """Whether the object at a place is whole, or its bases exist."""
        below: int | None = at
        for _ in range(BASES_MAX + 1):
            directory = self.directory(txn, pack_of(below)) if below is not None else None
            if below is None or directory is None:
                return False
            base = directory.base(slot_of(below))
            if base is None:
                return True
            if isinstance(base, bytes):
                below = self.pack_index.find(txn, base)
            else:
                below = place(pack_of(below), base)
        return False

    # Writing

    def put(self, txn: Transaction, packs: Sequence[Packed]) -> list[tuple[int, list[bytes]]]:
        """Store packs; (number, digests) of each, for `mark_durable` after the commit."""
        made: list[tuple[int, list[bytes]]] = []
        for number, each in enumerate(packs, self.next_pack):
            if not txn.add(tables.PACKS, tables.id_key(number), each.raw):
                raise CorruptionError(f"there is a pack {number} already")
            made.append((number, each.digests))
        if packs:
            counts = zip(*(each.counts for each in packs), strict=True)
            self.count(txn, [sum(column) for column in counts])
        return made

    @property
    def next_pack(self) -> int:
        """Number of the next pack."""
        return self.pack_index.next_pack

    def mark_durable(self, made: list[tuple[int, list[bytes]]]) -> None:
        """The packs are durable: their objects are found there from now on."""
        for number, digests in made:
            self.pack_index.add(number, digests)

    def remove(self, txn: Transaction, number: int, directory: pack.PackDirectory) -> None:
        """Remove a pack; readers of its objects find another copy, or none."""
        self.drop(txn, number, directory.counts())

    def drop(self, txn: Transaction, number: int, counts: tuple[int, int, int] = (0, 0, 0)) -> None:
        """As `remove`, with what the pack adds to the totals, as far as known; CorruptionError."""
        key = tables.id_key(number)
        raw = txn.get(tables.PACKS, key)
        if raw is None:
            return
        self._environment.require_removable(tables.PACKS, key)
        self.count(txn, [*(-count for count in counts), -len(raw)])
        txn.delete(tables.PACKS, key)

    def count(self, txn: Transaction, more: Sequence[int]) -> None:
        """Add to the totals, in the order of their names."""
        for name, amount in zip(tables.TOTAL_NAMES, more, strict=True):
            raw = txn.get(tables.TOTALS, name.encode())
            value = (int.from_bytes(raw, "little") if raw is not None else 0) + amount
            txn.put(tables.TOTALS, name.encode(), tables.pack_u64(max(0, value)))

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Commit a move, and update the places, inside the block."""
        with self.lock:
            self._moves += 1
            try:
                yield
            finally:
                self._moves += 1


def packed(frames: Sequence[pack.Frame]) -> list[Packed]:
    """Frames as packs that are ready to be stored; slow, so not inside a transaction."""
    return [_packed(each) for each in pack.packs_of(frames, PACK_BYTES)]


def _packed(frames: list[pack.Frame]) -> Packed:
    members = [member for frame in frames for member in frame.members]
    raw = pack.encode(frames)
    nodes = sum(member.id.is_node for member in members)
    plain = sum(member.length for member in members if not member.id.is_node)
    counts = len(members) - nodes, plain, nodes, len(raw)
    return Packed(raw, [member.id.digest for member in members], counts)


def check_key(digest: bytes) -> None:
    """InvalidInputError for bytes that cannot be a digest."""
    if len(digest) != DIGEST_BYTES or digest == chunk.HOLE:
        raise InvalidInputError(f"{digest.hex()!r} is not the digest of an object")


def _decoded(wanted: ObjectId, stored: BytesLike) -> bytes:
    try:
        return chunk.decode(stored, PLAIN_BYTES_MAX[wanted.kind])
    except CorruptionError as error:
        raise CorruptionError(f"{wanted}: {error}") from None
