"""Chunks and nodes at rest: found, unpacked, checked, and put into packs.

Reads take no lock. A move (an object is packed anew, or its old pack goes) holds `lock` from before
its commit until the places in memory are the new ones; who finds nothing while something moved
looks again under the lock. While garbage is collected, `relied` is told of every object that
somebody was told to be there, under the same lock: what is relied on is never swept.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffkeeper.errors import CorruptionError, InvalidInputError, NotFoundError
from diffkeeper.format import chunk, pack
from diffkeeper.hashing import DIGEST_BYTES, chunk_digest, node_digest
from diffkeeper.limits import (
    BASES_MAX,
    CHUNK_BYTES_MAX,
    DIRECTORY_CACHE_OBJECTS_MAX,
    FRAME_CACHE_BYTES_MAX,
    NODE_BYTES_MAX,
    NODE_CACHE_BYTES_MAX,
    NODE_CACHE_ENTRIES_MAX,
    PACK_BYTES,
)
from diffkeeper.store import tables
from diffkeeper.store.cache import NodeCache
from diffkeeper.store.caches import Bounded
from diffkeeper.store.places import Places, pack_of, place, slot_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from diffkeeper.hashing import BytesLike
    from diffkeeper.store.environment import Environment, Transaction

_ATTEMPTS_MAX = 8


@dataclass(frozen=True, slots=True)
class Packed:
    """A pack without a number: its bytes, its objects in order, what it adds to the totals."""

    raw: bytes
    digests: list[bytes]
    counts: tuple[int, int, int, int]


class _Moved(Exception):
    """A pack is not in this transaction: its objects are elsewhere by now, or absent."""


class _BaseMoved(_Moved):
    """The same of the base of a delta; where nothing moves, the base is absent."""


class Objects:
    """All objects of a store. `load` first; any thread may read, writers take turns."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._nodes = NodeCache(NODE_CACHE_ENTRIES_MAX, NODE_CACHE_BYTES_MAX)
        self._frames: Bounded[tuple[int, int], bytes] = Bounded(FRAME_CACHE_BYTES_MAX)
        self._directories: Bounded[int, pack.Directory] = Bounded(DIRECTORY_CACHE_OBJECTS_MAX)
        self.places = Places(self.directory)
        self.lock = threading.Lock()
        self._moves = 0  # odd while something moves
        # Those tables of older formats, of single objects, that had any: nothing is added to them.
        self._singles: list[tables.Table] = []
        self.relied: Callable[[Transaction, int], None] | None = None

    def load(self) -> None:
        """Learn the places that are not in the table; a damaged pack has none."""
        with self._environment.read() as txn:
            raw = txn.get(tables.META, tables.META_PLACES_UPTO)
            at = int.from_bytes(raw, "little") + 1 if raw is not None else 1
            both = tables.CHUNKS, tables.NODES
            self._singles = [table for table in both if txn.first(table, b"\0")]
        self.places.next_pack = at
        while True:
            with self._environment.read() as txn:
                found = txn.first(tables.PACKS, tables.id_key(at))
                if found is None:
                    return
                at = int.from_bytes(found[0], "big")
                self.places.next_pack = at + 1
                # The objects of a damaged one are absent, and a scrub names what needs them.
                with suppress(CorruptionError):
                    self.places.add(at, pack.Directory(found[1]).digests())
            at += 1

    # Reading

    def plain(self, digest: bytes, *, node: bool) -> bytes:
        """Plain content, checked against its digest; NotFoundError, CorruptionError."""
        if node:
            cached = self._nodes.get(digest)
            if cached is not None:
                return cached
        plain = self._looked_up(digest, node)
        found = node_digest(plain) if node else chunk_digest(plain)
        if found != digest:
            self._blame(digest)
            raise CorruptionError(f"{_named(digest, node)} holds content of {found.hex()}")
        if node:
            self._nodes.put(digest, plain)
        return plain

    def _looked_up(self, digest: bytes, node: bool) -> bytes:
        for attempt in range(_ATTEMPTS_MAX):
            with self._settled(attempt > 0), self._environment.read() as txn:
                try:
                    plain = self._plain_in(txn, digest, node)
                except _BaseMoved as error:
                    if attempt == 0:
                        continue
                    raise CorruptionError(f"{_named(digest, node)}: {error}") from None
                except _Moved:
                    continue
                if plain is not None:
                    return plain
                if not self._moves & 1 and attempt:
                    break
        raise NotFoundError(f"{_named(digest, node)} is not in the store")

    @contextmanager
    def _settled(self, wanted: bool) -> Iterator[None]:
        """With `wanted`, nothing moves inside the block."""
        if wanted:
            with self.lock:
                yield
        else:
            yield

    def _plain_in(self, txn: Transaction, digest: bytes, node: bool) -> bytes | None:
        at = self.places.find(txn, digest)
        if at is None:
            stored = txn.get(tables.NODES if node else tables.CHUNKS, digest)
            return None if stored is None else _decoded(digest, stored, node)
        directory = self._require(txn, pack_of(at))
        if directory.is_node(slot_of(at)) != node:
            return None
        try:
            return self._resolved(txn, at)
        except CorruptionError as error:
            raise CorruptionError(f"{_named(digest, node)}: {error}") from None

    def _resolved(self, txn: Transaction, at: int) -> bytes:
        """The object at a place: its piece, and those of its bases down to a whole one."""
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
        found = self.places.find(txn, base)
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

    def directory(self, txn: Transaction, number: int) -> pack.Directory | None:
        """The directory of a pack; None when there is none, or none that can be read."""
        found = self._directories.get(number)
        if found is None:
            raw = txn.get(tables.PACKS, tables.id_key(number))
            if raw is None:
                return None
            try:
                found = pack.Directory(raw)
            except CorruptionError:
                return None
            self._directories.put(number, found, found.objects)
        return found

    def _require(self, txn: Transaction, number: int) -> pack.Directory:
        found = self.directory(txn, number)
        if found is None:
            if txn.get(tables.PACKS, tables.id_key(number)) is not None:
                raise CorruptionError(f"the directory of pack {number} is damaged")
            raise _Moved
        return found

    def _blame(self, digest: bytes) -> None:
        """CorruptionError that names the damaged base of a delta, if it has one."""
        with self.lock, self._environment.read() as txn:
            at = self.places.find(txn, digest)
            base = None
            if at is not None:
                base = self._require(txn, pack_of(at)).base_digest(slot_of(at))
        if base is None:
            return
        node = self.is_node(base)
        try:
            plain = self._looked_up(base, node)
        except (CorruptionError, NotFoundError) as error:
            raise CorruptionError(f"{digest.hex()} is a delta, and its base {error}") from None
        if (node_digest(plain) if node else chunk_digest(plain)) != base:
            raise CorruptionError(f"{digest.hex()} is a delta whose base {base.hex()} is damaged")

    def bases(self, txn: Transaction, digest: bytes) -> Iterator[bytes]:
        """The objects that a delta stands on, down to a whole one; CorruptionError."""
        at = self.places.find(txn, digest)
        for _ in range(BASES_MAX):
            base = None
            if at is not None:
                base = self._require(txn, pack_of(at)).base_digest(slot_of(at))
            if base is None:
                return
            yield base
            at = self.places.find(txn, base)

    def is_node(self, digest: bytes) -> bool:
        """Whether an object is a node; NotFoundError."""
        with self.lock, self._environment.read() as txn:
            at = self.places.find(txn, digest)
            if at is not None:
                return self._require(txn, pack_of(at)).is_node(slot_of(at))
            for table in (tables.NODES, tables.CHUNKS):
                if txn.get(table, digest) is not None:
                    return table is tables.NODES
        raise NotFoundError(f"object {digest.hex()} is not in the store")

    def home(self, digest: bytes) -> int | None:
        """The pack that holds an object whole; None when it is a delta, or in no pack."""
        with self.lock, self._environment.read() as txn:
            at = self.places.find(txn, digest)
            if at is None or self._require(txn, pack_of(at)).base(slot_of(at)) is not None:
                return None
            return pack_of(at)

    def stored(self, digest: bytes, *, node: bool) -> bytes:
        """The object in an encoding of its own, see `chunk.encode`; checked."""
        return chunk.encode(self.plain(digest, node=node), 1)

    def stored_bytes(self, digest: bytes) -> int:
        """Bytes that an object takes at rest: its share of its frame, and what names it."""
        for attempt in range(_ATTEMPTS_MAX):
            with self._settled(attempt > 0), self._environment.read() as txn:
                at = self.places.find(txn, digest)
                if at is not None:
                    return self._require(txn, pack_of(at)).share(slot_of(at))
                for table in (tables.NODES, tables.CHUNKS):
                    stored = txn.get(table, digest)
                    if stored is not None:
                        return len(stored)
                if attempt:
                    break
        raise NotFoundError(f"object {digest.hex()} is not in the store")

    def absent(self, digests: Iterable[bytes]) -> set[bytes]:
        """Those that no object has; what is there is relied on from now on."""
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
        """Whether an object has this digest; while garbage is collected, it is relied on then."""
        at = self.places.find(txn, digest)
        if at is None:
            return any(txn.get(table, digest) is not None for table in self._singles)
        if self.relied is not None:
            self.relied(txn, at)
        return True

    # Writing

    def put(self, txn: Transaction, packs: Sequence[Packed]) -> list[tuple[int, list[bytes]]]:
        """Store packs; (number, digests) of each, for `settle` once it is durable."""
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
        return self.places.next_pack

    def settle(self, made: list[tuple[int, list[bytes]]]) -> None:
        """The packs are durable: their objects are found there from now on."""
        for number, digests in made:
            self.places.add(number, digests)

    def remove(self, txn: Transaction, number: int, directory: pack.Directory) -> None:
        """Remove a pack; whoever looks for one of its objects finds another copy, or none."""
        raw = txn.get(tables.PACKS, tables.id_key(number))
        if raw is None:
            return
        chunks, plain, nodes = directory.counts()
        self.count(txn, [-chunks, -plain, -nodes, -len(raw)])
        txn.delete(tables.PACKS, tables.id_key(number))

    def count(self, txn: Transaction, more: Sequence[int]) -> None:
        """Add to the totals, in the order of their names."""
        for name, amount in zip(tables.TOTAL_NAMES, more, strict=True):
            raw = txn.get(tables.TOTALS, name.encode())
            value = (int.from_bytes(raw, "little") if raw is not None else 0) + amount
            txn.put(tables.TOTALS, name.encode(), tables.pack_u64(max(0, value)))

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Commit a move, and settle it, inside the block."""
        with self.lock:
            self._moves += 1
            try:
                yield
            finally:
                self._moves += 1


def packed(frames: Sequence[pack.Frame]) -> list[Packed]:
    """Frames as packs that are ready to be stored; takes its time, so not in a transaction."""
    return [_packed(each) for each in pack.packs_of(frames, PACK_BYTES)]


def _packed(frames: list[pack.Frame]) -> Packed:
    members = [member for frame in frames for member in frame.members]
    raw = pack.encode(frames)
    nodes = sum(member.node for member in members)
    plain = sum(member.length for member in members if not member.node)
    counts = len(members) - nodes, plain, nodes, len(raw)
    return Packed(raw, [member.digest for member in members], counts)


def check_key(digest: bytes) -> None:
    """InvalidInputError for what is no digest of an object."""
    if len(digest) != DIGEST_BYTES or digest == chunk.HOLE:
        raise InvalidInputError(f"{digest.hex()!r} is not the digest of an object")


def _decoded(digest: bytes, stored: BytesLike, node: bool) -> bytes:
    try:
        return chunk.decode(stored, NODE_BYTES_MAX if node else CHUNK_BYTES_MAX)
    except CorruptionError as error:
        raise CorruptionError(f"{_named(digest, node)}: {error}") from None


def _named(digest: bytes, node: bool) -> str:
    return f"{'node' if node else 'chunk'} {digest.hex()}"
