"""A capture under way, as one volume has it, and the record that comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diffkeeper import clock
from diffkeeper.capture.source import Dirty
from diffkeeper.engine.observation import Hidden, Observation
from diffkeeper.engine.still import Sums
from diffkeeper.format.records import SnapshotRecord, VolumeRecord
from diffkeeper.freeze.writers import Writers

if TYPE_CHECKING:
    from diffkeeper.engine.group import Outcome
    from diffkeeper.engine.held_back import Lacking
    from diffkeeper.engine.stage import Stage
    from diffkeeper.engine.worktree import Worktree


@dataclass(slots=True)
class Figures:
    """What the last capture cost. `dirty_bytes`: what it had to read; `rounds`: of looking."""

    freeze_seconds: float = 0.0
    capture_seconds: float = 0.0
    dirty_bytes: int = 0
    rounds: int = 0


@dataclass(slots=True)
class Work:
    """The capture under way."""

    writers: Writers = field(default_factory=Writers)
    still: bool = True  # there will be no freeze
    dirty: Dirty = field(default_factory=Dirty)  # what its first drain brought
    hidden: Hidden = field(default_factory=Hidden)
    lost: bool = False  # hints of a source that tells everything
    again: bool = False  # the newest snapshot is to be taken again
    retry: Dirty = field(default_factory=Dirty)  # names that could not be read before
    root: bytes = b""  # of the last look without a freeze
    # Inside the freeze: what was copied, and what the round under way looks at, which is due
    # again if the freeze ends it early.
    taken: list[Observation] = field(default_factory=list)
    copied: dict[tuple[int, bytes], Observation] = field(default_factory=dict)  # newest by place
    sums: Sums = field(default_factory=Sums)  # of its rounds, where a source gives no hints
    pending: Dirty = field(default_factory=Dirty)
    pending_hidden: Hidden = field(default_factory=Hidden)
    frozen_hidden: bool = False  # there was something that gives no hint
    figures: Figures = field(default_factory=Figures)


def is_due(head: SnapshotRecord | None, root: bytes, fuzzy: str, lacking: Lacking) -> bool:
    """Whether a snapshot is to be stored: there is another state, or more or less is wrong with it.

    `fuzzy`: why what was captured is not one instant, or nothing.
    """
    if head is None or head.root != root.hex() or not lacking.is_told(head):
        return True
    return head.consistency == "fuzzy" and not fuzzy and not lacking.stale


def as_record(
    volume: VolumeRecord,
    tree: Worktree,
    stage: Stage,
    reason: str,
    outcome: Outcome,
    lacking: Lacking,
    seconds: float,
) -> SnapshotRecord:
    """The next snapshot of the volume, of what the tree holds; `seconds`: of the capture."""
    return SnapshotRecord(
        volume_id=volume.id,
        seq=volume.next_seq,
        parent=volume.head,
        root=tree.settle().hex(),
        time_ns=outcome.time_ns or clock.now_ns(),
        consistency="fuzzy" if outcome.fuzzy or lacking.stale else "crash",
        reason=reason,
        files=tree.files,
        bytes=tree.size,
        new_bytes=stage.new_bytes,
        stored_bytes=stage.stored_bytes,
        freeze_ms=round(outcome.freeze_ms, 3),
        capture_ms=round(seconds * 1000, 3),
        cause="; ".join(filter(None, (outcome.fuzzy, lacking.text))),
    )
