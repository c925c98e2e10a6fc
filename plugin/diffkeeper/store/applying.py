"""What a batch changes in the tables of records, inside one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.errors import ConflictError, NotFoundError
from diffkeeper.store import tables

if TYPE_CHECKING:
    from diffkeeper.store.batch import Batch
    from diffkeeper.store.transaction import Transaction


def apply(txn: Transaction, batch: Batch) -> None:
    for volume_id in sorted(batch.drop_index):
        low, high = tables.pair_key(volume_id, 0), tables.pair_end(volume_id, None)
        txn.delete_range(tables.INDEX, low, high)
    for pair in sorted(batch.index_del):
        txn.delete(tables.INDEX, tables.pair_key(*pair))
    for pair in sorted(batch.index_put):
        txn.put(tables.INDEX, tables.pair_key(*pair), batch.index_put[pair])
    for gone in sorted(batch.snapshots_del):
        txn.delete(tables.SNAPSHOTS, tables.pair_key(*gone))
    for snapshot in batch.snapshots:
        key = tables.pair_key(snapshot.volume_id, snapshot.seq)
        if not txn.add(tables.SNAPSHOTS, key, snapshot.encode()):
            raise ConflictError(
                f"volume {snapshot.volume_id} has a snapshot {snapshot.seq} already"
            )
    _apply_tags(txn, batch)
    _apply_volumes(txn, batch)


def _apply_tags(txn: Transaction, batch: Batch) -> None:
    for tag in sorted(batch.tags_del):
        txn.delete(tables.TAGS, tables.tag_key(*tag))
    for (volume_id, name), seq in sorted(batch.tags_put.items()):
        if txn.get(tables.SNAPSHOTS, tables.pair_key(volume_id, seq)) is None:
            raise NotFoundError(f"volume {volume_id} has no snapshot {seq} to be tagged {name}")
        key = tables.tag_key(volume_id, name)
        present = txn.number(tables.TAGS, key)
        if present is not None and present != seq:
            raise ConflictError(f"the tag {name} of volume {volume_id} names snapshot {present}")
        txn.put(tables.TAGS, key, tables.pack_u64(seq))


def _apply_volumes(txn: Transaction, batch: Batch) -> None:
    for volume_id in sorted(batch.volumes_del):
        txn.delete(tables.VOLUMES, tables.id_key(volume_id))
    for name in sorted(batch.names_del):
        txn.delete(tables.NAMES, name.encode())
    for name in sorted(batch.names_put):
        txn.put(tables.NAMES, name.encode(), tables.pack_u64(batch.names_put[name]))
    for record in batch.volumes:
        txn.put(tables.VOLUMES, tables.id_key(record.id), record.encode())
    if batch.volumes:
        next_id = txn.number(tables.META, tables.META_NEXT_VOLUME_ID) or 1
        next_id = max(next_id, 1 + max(record.id for record in batch.volumes))
        txn.put(tables.META, tables.META_NEXT_VOLUME_ID, tables.pack_u64(next_id))
