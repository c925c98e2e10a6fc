"""State of one volume in the capture under way, and the record that it ends in."""

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
    """Figures of the last capture. `dirty_bytes`: bytes that had to be read; `rounds`: of
    scanning.
    """

    freeze_seconds: float = 0.0
    capture_seconds: float = 0.0
    dirty_bytes: int = 0
    rounds: int = 0


@dataclass(slots=True)
class CaptureState:
    """State of the capture under way."""

    writers: Writers = field(default_factory=Writers)
    still: bool = True  # there will be no freeze
    dirty: Dirty = field(default_factory=Dirty)  # hints of its first drain
    hidden: Hidden = field(default_factory=Hidden)
    lost: bool = False  # hints were lost, of a source that sees everything
    unseen: bool = False  # something may have changed that no hint names
    again: bool = False  # a snapshot is due although nothing changed
    retry: Dirty = field(default_factory=Dirty)  # names that could not be read before
    root: Root = Root()  # of the last scan without a freeze
    # Inside the freeze: what was copied, and what the current round has to scan, which is hinted
    # again if the freeze ends early.
    taken: list[Observation] = field(default_factory=list)
    copied: dict[tuple[int, bytes], Observation] = field(default_factory=dict)  # newest by place
    sums: NameSums = field(default_factory=NameSums)  # of its rounds, where a source gives no hints
    pending: Dirty = field(default_factory=Dirty)
    pending_hidden: Hidden = field(default_factory=Hidden)
    frozen_hidden: bool = False  # some file may change without a hint
    figures: Figures = field(default_factory=Figures)

    def end_round(self, taken: list[Observation]) -> None:
        """A round in the freeze has scanned all that was pending; `taken`: its observations.

        Nothing is recorded of a round that ends early: names that lead to what it had yet to scan,
        such as other names of a file, lead there only while they are unchanged.
        """
        self.taken += taken
        self.pending, self.pending_hidden = Dirty(), Hidden()

    def thawed(self) -> tuple[list[Observation], Dirty, Hidden]:
        """After the freeze: what was copied, and what a round that ended early had to scan."""
        taken, dirty, hidden = self.taken, self.pending, self.pending_hidden
        self.taken, self.pending, self.pending_hidden = [], Dirty(), Hidden()
        self.copied.clear()
        self.sums.clear()
        return taken, dirty, hidden


def is_due(head: SnapshotRecord | None, root: Root, fuzzy: str, lacking: Lacking) -> bool:
    """Whether to store a snapshot: the state, or what is known to be wrong with it, has changed.

    `fuzzy`: why what was captured is not one instant, or "".
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
    """The record of the volume's next snapshot, with the tree's content; `seconds`: of the
    capture.
    """
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
