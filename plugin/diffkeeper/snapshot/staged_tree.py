"""A volume's tree in memory, with the objects and signatures that are not stored yet.

Each capture goes on from the tree that the one before has left. After a capture that failed there
is none: the next one loads the newest snapshot's tree, and compares everything with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffkeeper.format.root import decode_root
from diffkeeper.snapshot.recorder import Recorder
from diffkeeper.snapshot.staging import Staging
from diffkeeper.snapshot.stat_cache import StatCache
from diffkeeper.snapshot.worktree import Worktree
from diffkeeper.store.store import Batch

if TYPE_CHECKING:
    from diffkeeper.snapshot.policy import CapturePolicy
    from diffkeeper.snapshot.recorder import Noted
    from diffkeeper.snapshot.volume_state import VolumeState
    from diffkeeper.store.store import Store


@dataclass(frozen=True, slots=True)
class StagedTree:
    """Tree, staged objects and new signatures, which are dropped together; not thread safe.

    tree: the directories. stage: new objects that they refer to. index: signatures of files, the
    new ones above those that are stored. recorder: makes entries and signatures of observations.
    """

    tree: Worktree
    stage: Staging
    index: StatCache
    recorder: Recorder

    def stored(self) -> None:
        """Drop what is stored now; the tree stays."""
        self.index.clear()
        self.stage.clear()
        self.stage.reset_counts()


def load(
    store: Store,
    state: VolumeState,
    number: int,
    policy: CapturePolicy,
    noted: Noted,
    *,
    overflowed: bool,
) -> StagedTree:
    """The newest snapshot's tree; `number`: inode number of the live directory.

    A damaged tree is not used: the volume is captured as if for the first time. noted, overflowed:
    see `Recorder`, `StatCache`. Raises what reading and writing the store does.
    """
    next_link_id = state.record.next_link_id
    stage = Staging(store, policy.level)
    index = StatCache(store, state.record.id, overflowed=overflowed)
    head = state.head
    if head is not None and head.id in store.damaged:
        head = None
    if head is None:
        # those of a first capture that did not complete, see `StatCache.store_early`
        store.commit(Batch(drop_index={state.record.id}))
    root = head.root if head is not None else None
    entry = decode_root(stage.get(root))[0] if root is not None else None
    same = entry is not None and index.has_directory(number, 0, b"", entry.content)
    tree = Worktree(stage, number, root, same=same, exclude=policy.exclude)
    return StagedTree(tree, stage, index, Recorder(stage, index, noted, next_link_id))
