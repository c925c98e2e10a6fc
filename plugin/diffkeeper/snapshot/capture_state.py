"""A capture under way, as one volume has it, and the record that comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diffkeeper import clock
from diffkeeper.format.ids import Root
from diffkeeper.format.records import SnapshotRecord, VolumeRecord
from diffkeeper.freeze.writers import Writers
from diffkeeper.snapshot.observation import Hidden, Observation
from diffkeeper.snapshot.stillness import NameSums
from diffkeeper.sources.base import Dirty

if TYPE_CHECKING:
    from diffkeeper.snapshot.held_back import Lacking
    from diffkeeper.snapshot.outcome import Outcome
    from diffkeeper.snapshot.staging import Staging
    from diffkeeper.snapshot.worktree import Worktree


@dataclass(slots=True)
class Figures:
    """What the last capture cost. `dirty_bytes`: what it had to read; `rounds`: of looking."""

    freeze_seconds: float = 0.0
    capture_seconds: float = 0.0
    dirty_bytes: int = 0
    rounds: int = 0


@dataclass(slots=True)
class CaptureState:
    """The capture under way."""

    writers: Writers = field(default_factory=Writers)
    still: bool = True  # there will be no freeze
    dirty: Dirty = field(default_factory=Dirty)  # what its first drain brought
    hidden: Hidden = field(default_factory=Hidden)
    lost: bool = False  # hints of a source that tells everything
    unseen: bool = False  # something may have changed that no hint names
    again: bool = False  # the newest snapshot is to be taken again
    retry: Dirty = field(default_factory=Dirty)  # names that could not be read before
    root: Root = Root()  # of the last look without a freeze
    # Inside the freeze: what was copied, and what the round under way looks at, which is due
    # again if the freeze ends it early.
    taken: list[Observation] = field(default_factory=list)
    copied: dict[tuple[int, bytes], Observation] = field(default_factory=dict)  # newest by place
    sums: NameSums = field(default_factory=NameSums)  # of its rounds, where a source gives no hints
    pending: Dirty = field(default_factory=Dirty)
    pending_hidden: Hidden = field(default_factory=Hidden)
    frozen_hidden: bool = False  # there was something that gives no hint
    figures: Figures = field(default_factory=Figures)

    def end_round(self, taken: list[Observation]) -> None:
        """A round in the freeze has looked at all that was pending; `taken`: what it saw.

        Of a round that is ended early nothing is taken over: the names that lead to what it had yet
        to look at, such as the other names of a file, do so only while they are what they were.
        """
        self.taken += taken
        self.pending, self.pending_hidden = Dirty(), Hidden()

    def thawed(self) -> tuple[list[Observation], Dirty, Hidden]:
        """The freeze is over: what was copied, and what a round that was ended early looked at."""
        taken, dirty, hidden = self.taken, self.pending, self.pending_hidden
        self.taken, self.pending, self.pending_hidden = [], Dirty(), Hidden()
        self.copied.clear()
        self.sums.clear()
        return taken, dirty, hidden


def is_due(head: SnapshotRecord | None, root: Root, fuzzy: str, lacking: Lacking) -> bool:
    """Whether a snapshot is to be stored: there is another state, or more or less is wrong with it.

    `fuzzy`: why what was captured is not one instant, or nothing.
    """
    if head is None or head.root != root or not lacking.is_told(head):
        return True
    return head.consistency == "fuzzy" and not fuzzy and not lacking.stale


def as_record(
    volume: VolumeRecord,
    tree: Worktree,
    stage: Staging,
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
        root=tree.compute_root(),
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
