"""Damage to single stored objects, in the pages of a store that no process holds open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.store import tables
from diffkeeper.store.pack_index import pack_of, slot_of
from diffkeeper.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def spoil(path: Path, digests: Iterable[bytes]) -> None:
    """Flip bits of the frames that hold these objects where they are found."""
    store = Store.open(str(path), reserve_bytes=0)
    damaged: dict[int, bytes] = {}
    done: set[tuple[int, int]] = set()
    with store._environment.read() as txn:
        for digest in digests:
            at = store.objects.pack_index.find(txn, digest)
            assert at is not None, digest.hex()
            number = pack_of(at)
            raw = txn.get(tables.PACKS, tables.id_key(number))
            assert raw is not None
            directory = store.objects.directory(txn, number)
            assert directory is not None
            frame = directory.frame(slot_of(at))
            if (number, frame) in done:
                continue
            done.add((number, frame))
            _, start, length, _ = directory._frames[frame]
            changed = bytearray(damaged.get(number, bytes(raw)))
            for offset in range(start, start + length, 7):
                changed[offset] ^= 0x55
            damaged[number] = bytes(changed)
    _write(store, damaged)


def spoil_header(path: Path, number: int) -> None:
    """Make a pack unreadable as a whole."""
    store = Store.open(str(path), reserve_bytes=0)
    with store._environment.read() as txn:
        raw = bytearray(txn.get(tables.PACKS, tables.id_key(number)) or b"")
    raw[0] ^= 0xFF
    _write(store, {number: bytes(raw)})


def _write(store: Store, damaged: dict[int, bytes]) -> None:
    with store._environment.write() as txn:
        for number, raw in damaged.items():
            txn.put(tables.PACKS, tables.id_key(number), raw)
    store.close()
