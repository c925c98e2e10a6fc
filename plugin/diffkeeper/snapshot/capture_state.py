"""State of one capture of a volume: hints, frozen copies, figures, and the record at its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diffkeeper import clock
from diffkeeper.format.records import SnapshotRecord, VolumeRecord
from diffkeeper.snapshot.observation import Observation, UnseenFiles
from diffkeeper.snapshot.stillness import NameSums
from diffkeeper.sources.base import Dirty

if TYPE_CHECKING:
    from diffkeeper.format.ids import Root
    from diffkeeper.snapshot.held_back import Lacking
    from diffkeeper.snapshot.outcome import Outcome
    from diffkeeper.snapshot.staging import Staging
    from diffkeeper.snapshot.worktree import Worktree


@dataclass(slots=True)
class Figures:
    """Figures of one capture. `dirty_bytes`: bytes that had to be read; `rounds`: of scanning."""

    freeze_seconds: float = 0.0
    capture_seconds: float = 0.0
    dirty_bytes: int = 0
    rounds: int = 0


@dataclass(slots=True)
class Drained:
    """What one capture of a volume has to scan first; true if there is anything.

    dirty: hints of its first drain; unseen_files: what may change without a hint.
    again: a snapshot is due although nothing changed; retry: names that could not be read before.
    began_ns: when it began to scan.
    lost: hints were lost, of a source that sees everything, by this drain or a later one.
    unseen: something may have changed that no hint names, by this drain or a later one.
    """

    dirty: Dirty = field(default_factory=Dirty)
    unseen_files: UnseenFiles = field(default_factory=UnseenFiles)
    again: bool = False
    retry: Dirty = field(default_factory=Dirty)
    began_ns: int = 0
    lost: bool = False
    unseen: bool = False

    def __bool__(self) -> bool:
        return bool(self.dirty or self.unseen_files or self.again or self.retry)

    def doubt(self, dirty: Dirty, *, hinting: bool) -> None:
        """Note what a drain leaves in doubt; `hinting`: its source gives hints at all."""
        self.lost |= dirty.everything and hinting
        self.unseen |= dirty.orphans or dirty.passed


@dataclass(slots=True)
class FrozenRounds:
    """Rounds of scanning inside a freeze.

    taken: observations of the rounds that ended; copied: the newest one by place.
    sums: of directories, where a source gives no hints.
    pending, pending_unseen: what the current round has to scan, which is scanned after the freeze
    if that ends early. has_unseen: some file may change without a hint.
    """

    taken: list[Observation] = field(default_factory=list)
    copied: dict[tuple[int, bytes], Observation] = field(default_factory=dict)
    sums: NameSums = field(default_factory=NameSums)
    pending: Dirty = field(default_factory=Dirty)
    pending_unseen: UnseenFiles = field(default_factory=UnseenFiles)
    has_unseen: bool = False

    def end_round(self, taken: list[Observation]) -> None:
        """A round in the freeze has scanned all that was pending; `taken`: its observations.

        Nothing is recorded of a round that ends early: names that lead to what it had yet to scan,
        such as other names of a file, lead there only while they are unchanged.
        """
        self.taken += taken
        self.pending, self.pending_unseen = Dirty(), UnseenFiles()


def is_due(head: SnapshotRecord | None, root: Root, fuzzy: str, lacking: Lacking) -> bool:
    """Whether to store a snapshot: the state, or what is known to be wrong with it, has changed.

    `fuzzy`: why what was captured is not one instant, or "".
    """
    if head is None or head.root != root or not lacking.is_recorded_in(head):
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
