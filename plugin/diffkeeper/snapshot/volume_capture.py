"""One volume's part in one capture: pre-copy, copy inside the freeze, what there is to commit.

`snapshot.group_capture` runs these phases for one or more volumes; nothing here freezes or stores.

Invariants:
- Hints are scanned in the capture that drained them. A capture that fails drops the tree in memory,
  and the next one compares the whole volume.
- A snapshot is `crash` only if nothing was seen to change between the first look of its last round
  and the end of that round, in any volume of its group: the writers were frozen, or there were none
  and nothing moved.
- Signatures, objects, snapshot and head become visible in one transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper import clock, limits
from diffkeeper.errors import UnsupportedError
from diffkeeper.format.ids import Root
from diffkeeper.snapshot.capture_state import Figures, FrozenRounds, as_record, is_due
from diffkeeper.snapshot.file_reader import FileReader
from diffkeeper.snapshot.observation import Observation, Trust, UnseenFiles, windows
from diffkeeper.snapshot.scan_context import ScanContext
from diffkeeper.snapshot.scanner import Scanner
from diffkeeper.snapshot.volume_state import Change, RecordChanges
from diffkeeper.sources.base import Dirty
from diffkeeper.store.store import Batch

if TYPE_CHECKING:
    from diffkeeper.format.entry import Entry
    from diffkeeper.freeze.writers import Writers
    from diffkeeper.snapshot.capture_state import Drained
    from diffkeeper.snapshot.chunker import Content
    from diffkeeper.snapshot.outcome import Budget, Outcome
    from diffkeeper.snapshot.scan_context import Bounds
    from diffkeeper.snapshot.staging import Staging
    from diffkeeper.snapshot.stillness import NameSums
    from diffkeeper.snapshot.watched_volume import WatchedVolume
    from diffkeeper.snapshot.worktree import Directory
    from diffkeeper.sources.base import Source


class _Precopy:
    """Bounds of a round while writers run: only that of memory, which the stage keeps."""

    def __init__(self, stage: Staging) -> None:
        self._stage = stage

    def check(self) -> None:
        """Never ends the round."""

    def spill(self, content: Content) -> None:
        """Stage the data, and store it when the stage is full."""
        self._stage.adopt_file(content)


class VolumeCapture:
    """One capture of a watched volume, from its first scan on; not thread safe.

    The phases are called in order by `snapshot.group_capture`, which holds the volume's lock.

    watched: the volume. writers: who has it mounted, as of this capture.
    """

    def __init__(
        self, watched: WatchedVolume, drained: Drained, writers: Writers, *, still: bool, share: int
    ) -> None:
        """drained: from `WatchedVolume.drain`. still: there will be no freeze.

        share: number of volumes in the group, which share the memory for staged objects. Raises
        what loading the newest snapshot's tree does.
        """
        self.watched = watched
        self.writers = writers
        self._drained = drained
        self._still = still
        self._staged = staged = watched.staged()
        self._tree, self._stage, self._index = staged.tree, staged.stage, staged.index
        self._stage.bytes_max = limits.BATCH_BYTES_MAX // share
        self._context = ScanContext(
            self._tree, watched.root_fd, watched.source, self._index, watched.context.reader,
            watched.policy.chunk_bits, watched.watcher.mapped, watched.held, watched.nameless,
        )  # fmt: skip
        # Whether the files of mappings that ended before this capture have been read.
        self._ended_mappings_read = watched.tells_content and self._tree.root.listed
        self._root = Root()  # of the last scan without a freeze
        self._frozen = FrozenRounds()
        self._figures = Figures()

    @property
    def _source(self) -> Source:
        return self.watched.source

    # Phases of a capture

    def precopy(self) -> None:
        """Scan everything that was hinted."""
        drained, held = self._drained, self.watched.held
        self.watched.unseen.begin(self.writers)
        if drained.dirty.everything:
            self._tree.marked.clear()
        self._round(drained.dirty, drained.unseen_files)
        if drained.dirty.everything and not held.stale:
            self._tree.lost_links = drained.unseen = False
        self._ended_mappings_read = True
        if drained.retry:
            started = clock.monotonic()
            self._round(drained.retry, UnseenFiles())
            held.tried(clock.monotonic(), clock.monotonic() - started)

    def same(self) -> bool:
        """Whether the scan was only due by time, without a hint, and found no change."""
        watched = self.watched
        watched.lacking = watched.held.summed_up(self._tree)
        due = is_due(watched.state.head, self._tree.compute_root(), "", watched.lacking)
        due = due or watched.lacks_snapshot()
        return not (due or self._drained.dirty.hinted or self._drained.again)

    def end(self) -> None:
        """End the capture before its freeze: nothing had changed."""
        self.watched.unseen.end()
        self.watched.unseen.recorded()

    def end_scans(self, started: float) -> None:
        """All scans of the capture are done."""
        if self._drained.dirty.everything:
            self._compared(clock.monotonic() - started)
        if self._tree.lost_links or self._drained.unseen:
            # The content of links stays recorded until a comparison shows that no name is left. A
            # file that was written under no name, or without a watch, and closed since, is found by
            # a comparison only.
            self.watched.comparison.need(started)
        self.watched.unseen.end()

    def _compared(self, seconds: float) -> None:
        """Everything was compared, over the rounds of this capture."""
        self._tree.compute_root()
        if not self.watched.held.stale:
            # A directory that could not be read may contain names of links.
            self._tree.sweep_links()
        self.watched.compared(seconds)

    # Looking

    def _drain(self, *, frozen: bool = False) -> Dirty:
        return self.watched.drain_hints(self._drained, frozen=frozen)

    def _scanner(self, bounds: Bounds, *, still: bool, sums: NameSums | None = None) -> Scanner:
        """The scanner of one round; `still`: writers are frozen, or there is no freeze."""
        # The first round of a capture reads what mappings that ended before it may have changed.
        # Mappings that came and went since are only known from the source or by a young timestamp;
        # after lost hints from neither.
        horizon = self.watched.horizon_ns
        if self._ended_mappings_read and not self._drained.lost:
            since_ns = clock.now_ns() - self._drained.began_ns + limits.TIMESTAMP_GRANULE_NS
            horizon = 0 if self.watched.tells_content else since_ns
        trust = Trust(limits.TIMESTAMP_GRANULE_NS, horizon)
        files = FileReader(self._context, trust, bounds, self._mapped_now)
        return Scanner(self._context, files, bounds, still=still, sums=sums)

    def _mapped_now(self) -> frozenset[int]:
        return self.watched.unseen.mapped_now(self.writers)

    def _round(self, dirty: Dirty, unseen: UnseenFiles) -> None:
        """Scan everything that was hinted, and record it as it is found."""
        self._figures.rounds += 1
        if dirty.everything:
            self.watched.held.compare_all()
        if dirty.orphans and not self.writers.pids:
            dirty.escalate("a file was written under a name that is gone")
        unseen = self.watched.unseen.with_lost(unseen, dirty, self.writers)
        try:
            scanner = self._scanner(_Precopy(self._stage), still=self._still)
            for window in windows(scanner.run(dirty, unseen)):
                self._absorb(window)
        except UnsupportedError as error:
            self.watched.watcher.replace(str(error))
            raise

    def scan_again(self) -> bool:
        """Without a freeze: scan what changed since the last scan; false when anything did."""
        before, dirty = self._root, self._drain()
        self._root = self._tree.compute_root()
        unseen = self.watched.unseen.survey_all(self.writers)
        # Hints are always scanned. Without hints, and for what gives none, only two equal results
        # in a row show that nothing moves.
        hinted = dirty.hinted and self._source.hinting
        if not hinted and (self._root == before or not (dirty or unseen)):
            return True
        self._round(dirty, unseen)
        return False

    def moved(self) -> bool:
        """Whether the last scan without a freeze differs from the one before."""
        return self._tree.compute_root() != self._root

    def precopy_more(self) -> None:
        """Scan what changed since the last scan, if there are hints."""
        if self._source.hinting and (dirty := self._drain()).hinted:
            self._round(dirty, UnseenFiles())

    # Inside the freeze

    def copy(self, attempt: int, budget: Budget) -> bool:
        """Inside the freeze: copy what changed since the last scan; whether anything had.

        A hint alone is no change: the kernel also touches inodes when it writes pages out. Raises
        FreezeError when there is more than the freeze allows.
        """
        with self.watched.within_freeze():
            if attempt == 0:
                self._begin_frozen()
            self.watched.watcher.direct.inside(budget.check)
            frozen = self._frozen
            frozen.pending = self._drain(frozen=True)
            moved = bool(attempt and not self._source.complete and not self._stood_still(budget))
            if moved:
                frozen.sums.clear()
            elif attempt and not (self._source.hinting and frozen.pending.hinted):
                frozen.pending = Dirty()
                return False
            elif attempt:
                frozen.pending.compare = ()
            return self._copy_round(budget) or moved

    def _begin_frozen(self) -> None:
        self.writers, unseen = self.watched.unseen.frozen(self.writers)
        self._frozen.pending_unseen, self._frozen.has_unseen = unseen, bool(unseen)

    def _copy_round(self, budget: Budget) -> bool:
        """Copy what is pending; whether any of it changed since the last scan."""
        frozen = self._frozen
        unseen = frozen.pending_unseen
        unseen = self.watched.unseen.with_lost(unseen, frozen.pending, self.writers)
        frozen.pending_unseen = unseen
        frozen.has_unseen = frozen.has_unseen or bool(unseen)
        self._figures.rounds += 1
        sums = None if self._source.complete else frozen.sums
        scanner = self._scanner(budget, still=True, sums=sums)
        taken: list[Observation] = []
        news = False
        try:
            for seen in scanner.run(frozen.pending, unseen):
                taken.append(seen)
                budget.add(seen)
                news = scanner.is_news(seen, frozen.copied) or news
        except UnsupportedError as error:
            # Replacing the source takes too long for a freeze.
            self.watched.watcher.give_up(str(error))
            raise
        frozen.end_round(taken)
        return news

    def _stood_still(self, budget: Budget) -> bool:
        """Without hints: whether a second scan sees what the last round saw.

        Content that was copied is read again: its timestamps may be too young to prove anything.
        """
        frozen = self._frozen
        scanner = self._scanner(budget, still=True, sums=frozen.sums)
        if not scanner.stood_still(frozen.sums, frozen.pending.compare):
            return False
        names: dict[int, set[bytes]] = {}
        for number, name in frozen.copied:
            if number in frozen.sums:
                names.setdefault(number, set()).add(name)
        seen = scanner.run(Dirty(names=names), UnseenFiles())
        # If anything is news, all of it is scanned again.
        return not any(scanner.is_news(each, frozen.copied) for each in seen)

    def doubt(self) -> str:
        """Why a copy that saw no change may still not be one instant, or ""."""
        if self.writers.unfreezable and (self._frozen.has_unseen or not self._source.complete):
            return "mapped or watched without hints, and written by a process that was not frozen"
        return self.watched.unseen.doubt

    def thawed(self, held_seconds: float) -> None:
        """After a freeze of so many seconds: record what was copied, and scan what it left."""
        self.watched.frozen_seconds += held_seconds
        self.watched.watcher.direct.thawed(held_seconds)
        frozen, self._frozen = self._frozen, FrozenRounds()
        self._absorb(frozen.taken)
        if frozen.pending or frozen.pending_unseen:
            self.watched.nameless.clear()  # no search of that round came to its end
            self._round(frozen.pending, frozen.pending_unseen)

    # Recording

    def _absorb(self, seen: list[Observation]) -> None:
        """Put observations into the staged tree and signatures."""
        self._stage.add_chunks(
            {d: plain for o in seen if o.content is not None for d, plain in o.content.data.items()}
        )
        changes: dict[Directory, dict[bytes, Entry | None]] = {}
        for observation in seen:
            if observation.content is not None:
                self._figures.dirty_bytes += observation.content.read_bytes
            self._record_trouble(observation)
            if observation.stale:
                continue
            names = changes.setdefault(observation.directory, {})
            names[observation.name] = self._staged.recorder.entry(observation, self._tree)
        for directory, names in changes.items():
            self._tree.apply(directory, names)
        if self._source.by_range:
            read = [o.status.st_ino for o in seen if o.status is not None]
            self._source.mark_read([number for number in read if self._index.is_new(number)])
        self._context.signed()
        self._stage.relieve()
        if self.watched.state.head is None:
            self._index.store_early(self._stage)

    def _record_trouble(self, seen: Observation) -> None:
        held = self.watched.held
        held.record((seen.directory.inode, seen.name), seen.trouble)
        if held.beyond:
            self.watched.comparison.need()

    def change(self, reason: str, outcome: Outcome, started: float) -> Change:
        """What to commit: a snapshot, or only signatures where the newest one is right."""
        watched, state = self.watched, self.watched.state
        watched.rely()
        watched.watcher.refuse_missed()
        root = self._tree.compute_root()
        for placed in self._tree.pop_placed():
            parent = placed.parent.inode if placed.parent is not None else 0
            self._index.put_directory(placed.inode, parent, placed.name, placed.content)
        batch = self._stage.batch([root])
        self._source.release(self._index.add_to(batch, self._stage))
        fields = RecordChanges(next_link_id=self._staged.recorder.next_link_id)
        lacking = watched.lacking = watched.held.summed_up(self._tree)
        if not is_due(state.head, root, outcome.fuzzy, lacking):
            return Change(state, batch if len(self._index) else Batch(), None, fields)
        seconds = clock.monotonic() - started
        snapshot = as_record(
            state.record, self._tree, self._stage, reason, outcome, lacking, seconds
        )
        return Change(state, batch, snapshot, fields)

    def recorded(self, outcome: Outcome, started: float) -> None:
        """Everything is committed."""
        self.watched.recorded(torn=bool(outcome.fuzzy))
        self._staged.stored()
        self.watched.figures = self._figures
        self._figures.freeze_seconds = outcome.freeze_ms / 1000
        self._figures.capture_seconds = clock.monotonic() - started
