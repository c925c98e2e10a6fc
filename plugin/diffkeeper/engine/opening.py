"""The tree that a first capture starts from: that of the newest snapshot, if it is sound."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.engine.worktree import Worktree
from diffkeeper.format.root import decode_root
from diffkeeper.store.store import Batch

if TYPE_CHECKING:
    from diffkeeper.engine.signatures import Index
    from diffkeeper.engine.stage import Stage
    from diffkeeper.engine.volume import VolumeState
    from diffkeeper.store.store import Store


def tree(store: Store, stage: Stage, index: Index, state: VolumeState, number: int) -> Worktree:
    """The newest snapshot's tree; `number`: the inode number of the live directory.

    Nothing can be built on a damaged one: what is there is captured as if for the first time.
    """
    head = state.head
    if head is not None and (head.volume_id, head.seq) in store.damaged:
        index.clear()
        head = None
    if head is None:
        # Those of a first capture that came to no end, see `Index.store_early`.
        store.commit(Batch(drop_index={state.record.id}))
    root = bytes.fromhex(head.root) if head is not None else None
    entry = decode_root(stage.get(root))[0] if root is not None else None
    same = entry is not None and index.has_directory(number, 0, b"", entry.content)
    return Worktree(stage, number, root, same=same)
