"""The objects of the local store, for replay and verification."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffkeeper.store.store import Store


class StoreObjects:
    """An object source on the store; the store checks every object that it returns."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def nodes(self, digests: list[bytes]) -> list[bytes]:
        """Plain nodes, in order."""
        return [self._store.node(digest) for digest in digests]

    def chunks(self, digests: list[bytes]) -> list[bytes]:
        """Plain chunks, in order."""
        return [self._store.chunk(digest) for digest in digests]
