"""One transaction of the store: reads and writes of keys in tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.errors import CorruptionError
from diffkeeper.store.tables import unpack_u64

if TYPE_CHECKING:
    import lmdb

    from diffkeeper.store.tables import Table


class Transaction:
    """One LMDB transaction; views that it returns are valid until it ends."""

    __slots__ = ("_databases", "_txn")

    def __init__(
        self, txn: lmdb.Transaction[memoryview], databases: dict[str, lmdb._Database]
    ) -> None:
        self._txn, self._databases = txn, databases

    def get(self, table: Table, key: bytes) -> memoryview | None:
        """The value of `key` without a copy, or None."""
        return self._txn.get(key, db=self._databases[table.name])

    def number(self, table: Table, key: bytes) -> int | None:
        """The value of `key` as a number, or None; CorruptionError for another value."""
        raw = self.get(table, key)
        if raw is None:
            return None
        value = unpack_u64(bytes(raw))
        if value is None:
            raise CorruptionError(f"{key!r} in {table.name} is not a number of eight bytes")
        return value

    def add(self, table: Table, key: bytes, value: bytes) -> bool:
        """Store a new key; false, and no change, when it exists."""
        return self._txn.put(key, value, overwrite=False, db=self._databases[table.name])

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        """Store or replace."""
        self._txn.put(key, value, db=self._databases[table.name])

    def delete(self, table: Table, key: bytes) -> bool:
        """Remove; false when it was absent."""
        return self._txn.delete(key, db=self._databases[table.name])

    def delete_range(self, table: Table, start: bytes, stop: bytes) -> None:
        """Remove every key with start <= key < stop."""
        with self._txn.cursor(db=self._databases[table.name]) as cursor:
            there = cursor.set_range(start)
            while there and bytes(cursor.key()) < stop:
                cursor.delete()
                there = bool(cursor.key())

    def scan(
        self, table: Table, start: bytes, stop: bytes, limit: int, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """Copies of at most `limit` items with start <= key < stop; `reverse` from the end."""
        found: list[tuple[bytes, bytes]] = []
        with self._txn.cursor(db=self._databases[table.name]) as cursor:
            if reverse:
                there = cursor.prev() if cursor.set_range(stop) else cursor.last()
            else:
                there = cursor.set_range(start)
            while there and len(found) < limit:
                key = bytes(cursor.key())
                if not start <= key < stop:
                    break
                found.append((key, bytes(cursor.value())))
                there = cursor.prev() if reverse else cursor.next()
        return found

    def first(self, table: Table, low: bytes) -> tuple[bytes, memoryview] | None:
        """The first item with a key of at least `low`; its value without a copy."""
        with self._txn.cursor(db=self._databases[table.name]) as cursor:
            return (bytes(cursor.key()), cursor.value()) if cursor.set_range(low) else None

    def keys(self, table: Table, low: bytes, limit: int) -> list[bytes]:
        """At most `limit` keys from `low` on; values are not read."""
        found: list[bytes] = []
        with self._txn.cursor(db=self._databases[table.name]) as cursor:
            there = cursor.set_range(low)
            while there and len(found) < limit:
                found.append(bytes(cursor.key()))
                there = cursor.next()
        return found

    def pages(self, table: Table) -> int:
        """Pages that the table occupies."""
        stat = self._txn.stat(self._databases[table.name])
        return stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
