"""The tree that a first capture starts from: that of the newest snapshot, unless it is damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.format.root import decode_root
from diffkeeper.snapshot.worktree import Worktree
from diffkeeper.store.store import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diffkeeper.snapshot.staging import Staging
    from diffkeeper.snapshot.stat_cache import StatCache
    from diffkeeper.snapshot.volume_state import VolumeState
    from diffkeeper.store.store import Store


def tree(
    store: Store,
    stage: Staging,
    index: StatCache,
    state: VolumeState,
    number: int,
    exclude: Sequence[str] = (),
) -> Worktree:
    """The newest snapshot's tree; `number`: inode number of the live directory.

    A damaged tree is not used: the volume is captured as if for the first time.
    """
    head = state.head
    if head is not None and head.id in store.damaged:
        index.clear()
        head = None
    if head is None:
        # Those of a first capture that did not complete, see `StatCache.store_early`.
        store.commit(Batch(drop_index={state.record.id}))
    root = head.root if head is not None else None
    entry = decode_root(stage.get(root))[0] if root is not None else None
    same = entry is not None and index.has_directory(number, 0, b"", entry.content)
    return Worktree(stage, number, root, same=same, exclude=exclude)
