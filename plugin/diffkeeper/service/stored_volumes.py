"""The volumes of the store, as a start of the daemon finds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.fsio import durable
from diffkeeper.history.snapshots import power_cut_tag
from diffkeeper.snapshot.volume_state import VolumeState
from diffkeeper.store.store import Batch
from diffkeeper.volumes.volume import Volume

if TYPE_CHECKING:
    from diffkeeper.history.trash import Trash
    from diffkeeper.snapshot.context import CaptureContext
    from diffkeeper.volumes.layout import Layout
    from diffkeeper.volumes.registry import Registry


def load(context: CaptureContext, layout: Layout, registry: Registry, trash: Trash) -> set[str]:
    """Put each stored volume into the registry or the trash; the names of those that were mounted
    when the last daemon ended. Blocks; nothing is served yet.
    """
    boot, store = durable.boot_id(), context.store
    in_use: set[str] = set()
    for record in store.volumes():
        if record.removed_ns is not None:
            trash.add(record)
            continue
        state = VolumeState(store, record)
        if record.mounts:
            in_use.add(record.name)
        if record.mounts and record.boot_id != boot:
            # After a reboot nothing is mounted, whatever was counted. A power cut may have lost
            # data whose timestamps survived: no signature proves anything any more.
            tags = power_cut_tag(store, record)
            state.commit(Batch(drop_index={record.id}, tags_put=tags), mounts={})
        volume = Volume(context, state, layout.volume(record.id))
        rebooted = record.boot_id not in ("", boot)
        volume.life.restarted(mounted=bool(record.mounts), rebooted=rebooted)
        registry.add(volume)
    return in_use
