"""Where two stored snapshots differ, as shown. Blocks on the store."""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING

from diffkeeper.format.differences import differences
from diffkeeper.format.entry import Kind
from diffkeeper.messages.snapshots import DiffPage, PathDifference, PathState

if TYPE_CHECKING:
    from diffkeeper.format.differences import DifferentPath
    from diffkeeper.format.entry import Entry
    from diffkeeper.format.records import SnapshotRecord
    from diffkeeper.messages.snapshots import Change
    from diffkeeper.store.store import Store

# The event loop makes JSON of them: some 50 ms for so many.
DIFFERENCES_PER_REQUEST = 4_000


def page(store: Store, old: SnapshotRecord, new: SnapshotRecord, after: bytes | None) -> DiffPage:
    """The first differences, or the first ones that follow a path; see `format.differences`."""
    found = differences(old.root, new.root, store.node, after)
    shown = [_shown(each) for each in islice(found, DIFFERENCES_PER_REQUEST)]
    more = len(shown) == DIFFERENCES_PER_REQUEST
    return DiffPage(old.seq, new.seq, shown, shown[-1].path if more else None)


def _shown(found: DifferentPath) -> PathDifference:
    change: Change = "changed"
    if found.old is None or found.new is None:
        change = "added" if found.old is None else "removed"
    before, after = _state(found.old), _state(found.new)
    return PathDifference(os.fsdecode(found.path), change, list(found.parts), before, after)


def _state(entry: Entry | None) -> PathState | None:
    if entry is None:
        return None
    size = entry.size if entry.kind is Kind.FILE else 0
    return PathState(entry.kind.name.lower(), size, f"{entry.mode:04o}", entry.uid, entry.gid)
