"""Upgrade of a store from an older format: existing data stay readable, new data are not added."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from diffkeeper.format.records import VolumeRecord
from diffkeeper.limits import STORE_PAGE_RECORDS_MAX
from diffkeeper.store import tables

if TYPE_CHECKING:
    from diffkeeper.store.transaction import Transaction


def upgrade(txn: Transaction) -> None:
    """Turn a store of an older format into one of this."""
    txn.put(tables.META, tables.META_FORMAT, tables.pack_u64(tables.FORMAT_VERSION))
    _add_up_totals(txn)
    _pin_chunk_sizes(txn)


def _pin_chunk_sizes(txn: Transaction) -> None:
    """Volumes of older formats keep their chunk size: the default was a different one."""
    at = tables.id_key(0)
    while page := txn.scan(tables.VOLUMES, at, tables.END, STORE_PAGE_RECORDS_MAX):
        for key, raw in page:
            record = VolumeRecord.decode(raw)
            if tables.CHUNK_SIZE not in record.options:
                options = {**record.options, tables.CHUNK_SIZE: tables.CHUNK_SIZE_BEFORE_3}
                txn.put(tables.VOLUMES, key, replace(record, options=options).encode())
        at = page[-1][0] + b"\0"


def _add_up_totals(txn: Transaction) -> None:
    """The totals of formats before 3 counted stored bytes of chunks and nodes separately."""
    old = ("chunk_stored_bytes", "node_stored_bytes")
    total = sum(txn.number(tables.TOTALS, name.encode()) or 0 for name in old)
    txn.put(tables.TOTALS, b"stored_bytes", tables.pack_u64(total))
    for name in old:
        txn.delete(tables.TOTALS, name.encode())
