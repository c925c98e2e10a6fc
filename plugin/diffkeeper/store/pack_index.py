"""The pack index: digest to pack and slot.

The places of objects in recent packs are only in memory, from the directories of these packs, so
that a commit writes no index at all; they are written to the table `places` later, many at a time,
sorted. Memory takes precedence over the table: an object that was packed again is found in its
newest pack. A place whose pack is gone is invalid.

A key of the table is the first bytes of a digest, which is checked in the pack; of two digests with
the same first bytes the later one has its whole digest as key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.store import tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from diffkeeper.format.pack import PackDirectory
    from diffkeeper.store.transaction import Transaction

SLOT_BITS = 16
_SLOT_MASK = (1 << SLOT_BITS) - 1


def place(pack: int, slot: int) -> int:
    """A pack and a slot in it as one number."""
    return pack << SLOT_BITS | slot


def pack_of(at: int) -> int:
    """The pack of a place."""
    return at >> SLOT_BITS


def slot_of(at: int) -> int:
    """The slot of a place."""
    return at & _SLOT_MASK


class PackIndex:
    """The places of all objects; `directory` returns that of a pack, or None when it is gone."""

    def __init__(self, directory: Callable[[Transaction, int], PackDirectory | None]) -> None:
        self._directory = directory
        self._recent: dict[bytes, int] = {}
        self._merging: list[tuple[bytes, int]] = []
        self._merging_upto = 0
        self.next_pack = 1

    def __len__(self) -> int:
        """Number of objects that are not in the table yet."""
        return len(self._recent)

    def add(self, pack: int, digests: Iterable[bytes]) -> None:
        """Add the objects of a stored pack, in its order."""
        first = pack << SLOT_BITS
        self._recent.update((digest, first + slot) for slot, digest in enumerate(digests))
        self.next_pack = max(self.next_pack, pack + 1)

    def find(self, txn: Transaction, digest: bytes) -> int | None:
        """The place of an object, or None when it is in no pack."""
        at = self._recent.get(digest)
        # A pack may be gone while its directory is still cached.
        if at is not None and _has_pack(txn, at):
            return at
        for key in (digest[: tables.PLACE_KEY_BYTES], digest):
            raw = txn.get(tables.PLACES, key)
            # The table may not be checked yet: a damaged value has any length.
            at = int.from_bytes(raw, "little") if raw is not None and len(raw) == 8 else None
            if at is not None and self._is_at(txn, at, digest):
                return at
        return None

    def _is_at(self, txn: Transaction, at: int, digest: bytes) -> bool:
        found = self._directory(txn, pack_of(at)) if _has_pack(txn, at) else None
        slot = slot_of(at)
        return found is not None and slot < found.objects and found.digest(slot) == digest

    def merge(self, txn: Transaction, count: int) -> bool:
        """Write at most `count` objects to the table; true when all recent ones are written.

        Call `merged` once the transaction is durable, before another one can write: otherwise the
        next call would write the same objects, and both would be removed from the list.
        """
        if not self._merging:
            self._merging = sorted(self._recent.items(), reverse=True)
            self._merging_upto = self.next_pack - 1
        for digest, at in reversed(self._merging[-count:]):
            # If that pack is gone, the object is found in an older one, and may be relied on.
            if _has_pack(txn, at):
                self.write(txn, digest, at)
        if len(self._merging) > count:
            return False
        txn.put(tables.META, tables.META_PLACES_UPTO, tables.pack_u64(self._merging_upto))
        return True

    def merged(self, count: int) -> None:
        """Remove from memory what the last call of `merge` wrote, which is durable."""
        del self._merging[-count:]
        if not self._merging:
            upto = self._merging_upto
            self._recent = {d: at for d, at in self._recent.items() if pack_of(at) > upto}

    def write(self, txn: Transaction, digest: bytes, at: int) -> None:
        """Write one object to the table, replacing an older place of it."""
        key, value = digest[: tables.PLACE_KEY_BYTES], tables.pack_u64(at)
        if txn.add(tables.PLACES, key, value):
            return
        # An older place of this object, of one that is gone, or of another one with the same first
        # bytes.
        raw = txn.get(tables.PLACES, key)
        old = int.from_bytes(raw, "little") if raw is not None else 0
        found = self._directory(txn, pack_of(old)) if _has_pack(txn, old) else None
        slot = slot_of(old)
        taken = found is not None and slot < found.objects and found.digest(slot) != digest
        txn.put(tables.PLACES, digest if taken else key, value)


def _has_pack(txn: Transaction, at: int) -> bool:
    return txn.get(tables.PACKS, tables.id_key(pack_of(at))) is not None
