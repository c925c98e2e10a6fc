"""Single numbers that the store keeps by name, in its table `meta`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.store import tables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from diffkeeper.store.environment import Environment
    from diffkeeper.store.transaction import Transaction
    from diffkeeper.store.writer import Made, Writer


class Meta:
    """Any thread may call. Values are in the range 0 to 2**64 - 1."""

    def __init__(self, environment: Environment, writer: Writer) -> None:
        self._environment = environment
        self._writer = writer

    def get(self, name: bytes) -> int | None:
        """The number of this name, None if there is none; CorruptionError."""
        with self._environment.read() as txn:
            return txn.number(tables.META, name)

    def put(self, numbers: Mapping[bytes, int], failpoints: str) -> None:
        """Store all of them in one durable transaction; NoSpaceError. `failpoints`: their name."""

        def act(txn: Transaction) -> Made:
            for name, value in numbers.items():
                txn.put(tables.META, name, tables.pack_u64(value))
            return []

        self._writer.commit(act, 0, failpoints)
