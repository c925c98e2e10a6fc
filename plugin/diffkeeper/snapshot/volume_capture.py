"""One volume's part in a capture: pre-copy, copy inside the freeze, what there is to commit.

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

import logging
import os
import threading
from typing import TYPE_CHECKING

from diffkeeper import clock, limits
from diffkeeper.errors import UnsupportedError
from diffkeeper.freeze.writers import Target, Writers
from diffkeeper.fsio import inode
from diffkeeper.snapshot import base_tree
from diffkeeper.snapshot.capture_state import CaptureState, Figures, as_record, is_due
from diffkeeper.snapshot.comparisons import Comparisons
from diffkeeper.snapshot.context import CaptureContext, CapturePolicy
from diffkeeper.snapshot.exclusions import note
from diffkeeper.snapshot.file_reader import FileReader
from diffkeeper.snapshot.held_back import HeldBack, Lacking
from diffkeeper.snapshot.observation import Hidden, Observation, SeenName, Trust, windows
from diffkeeper.snapshot.recorder import Recorder
from diffkeeper.snapshot.scanner import Scanner
from diffkeeper.snapshot.staging import Staging
from diffkeeper.snapshot.stat_cache import StatCache
from diffkeeper.snapshot.unseen_writes import UnseenWrites
from diffkeeper.snapshot.volume_state import Change, RecordChanges
from diffkeeper.snapshot.watcher import Watcher
from diffkeeper.sources.base import Changed, Dirty, Source
from diffkeeper.store.store import Batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffkeeper.format.entry import Entry
    from diffkeeper.format.records import IndexRecord
    from diffkeeper.snapshot.chunker import Content
    from diffkeeper.snapshot.outcome import Budget, Outcome
    from diffkeeper.snapshot.stillness import NameSums
    from diffkeeper.snapshot.volume_state import VolumeState
    from diffkeeper.snapshot.worktree import Directory, Worktree

__all__ = ["CapturePolicy", "VolumeCapture", "CaptureContext"]

log = logging.getLogger(__name__)


class VolumeCapture:
    """Captures one live directory. `pending`, `capture` and `close` may be called from any thread.

    `lock` is held during a capture; `closed` says that there will be no more. The phases below are
    called in order by `snapshot.group_capture`, which holds the lock.
    """

    def __init__(
        self, tools: CaptureContext, state: VolumeState, live: str, policy: CapturePolicy
    ) -> None:
        self.tools = tools
        self._state = state
        self.policy = policy
        self.lock = threading.Lock()
        self.closed = False
        self.faulty = False  # the last capture failed because of this volume
        self._root_fd = os.open(live, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.watched = Watcher(tools, state.record.name, live, self._root_fd, policy)
        self.target = Target(*self.watched.place)
        self._horizon_ns = inode.mmap_dirty_horizon_ns()
        self._index = StatCache(tools.store, state.record.id)
        self._stage = Staging(tools.store, policy.level)
        self._recorder = Recorder(self._stage, self._index, self._note_name)
        self._tree: Worktree | None = None
        self._nameless: dict[int, int] = {}
        self._held = HeldBack(policy.exclude)
        self.lacking = Lacking(note(policy.exclude), stale=False)  # missing from the newest state
        self._torn = False  # the last capture was not of one instant
        self._work = CaptureState()
        self.figures = Figures()
        self._places: dict[int, SeenName] = {}
        # What was read of each file since the last commit: another look reads it again.
        self._looked: dict[int, Changed] = {}
        self._unhinted = UnseenWrites(tools, self.watched, state.record.id)
        self._settled = False
        self._looked_ns = 0  # clock at the begin of this capture
        self._comparison = Comparisons()
        self.cpu_seconds = self.frozen_seconds = 0.0  # of its captures; of the writers, for them

    @property
    def _source(self) -> Source:
        """The source in use; it may be replaced by a coarser one."""
        return self.watched.source

    @property
    def _tells_content(self) -> bool:
        """Whether the source sees all stores, or when a mapping of a hinted file ends."""
        return self._source.complete or self._source.by_range

    @property
    def volume(self) -> str:
        """The volume's name."""
        return self._state.record.name

    @property
    def volume_id(self) -> int:
        """The volume's id."""
        return self._state.record.id

    @property
    def writers(self) -> Writers:
        """Who has the volume mounted, as of the capture under way."""
        return self._work.writers

    def close(self) -> None:
        """Stop watching; waits for a capture under way."""
        with self.lock:
            self.closed = True
            self._source.stop()
            os.close(self._root_fd)

    def pending(self, writers: Writers) -> bool:
        """Whether a capture would find work; cheap."""
        return bool(self._is_due() or self._source.pending() or self._unhinted.look_around(writers))

    def quiet(self) -> bool:
        """Whether only a survey of processes could make `pending` true; see `trusting`."""
        if not self._source.complete or self._is_due() or self._source.pending():
            return False
        return not self._unhinted.unarmed()

    @property
    def trusting(self) -> bool:
        """Whether the source sees all but stores to files that were mapped since the last survey.

        With any other source processes are surveyed at each interval. Even in such a file the first
        store moves the timestamp, unless it falls into the clock tick of the mapping.
        """
        return self._source.by_range

    def _is_due(self) -> bool:
        now = clock.monotonic()
        return now >= self._comparison.due or self._unsettled() or self._held.due(now)

    def _unsettled(self) -> bool:
        """Whether a crash-consistent snapshot of the newest state, or a part of it, is missing."""
        head = self._state.head
        if head is None:
            return False
        torn = head.consistency == "fuzzy" and (self._torn or not self.lacking.stale)
        return torn or not self.lacking.is_told(head)

    # Phases of a capture

    def begin(self, writers: Writers, *, still: bool, share: int) -> None:
        """Begin a capture. `still`: there will be no freeze; `share`: number of volumes in the
        group, which share the memory for staged objects.
        """
        self._work = CaptureState(writers, still)
        self._stage.bytes_max = limits.BATCH_BYTES_MAX // share

    def rely(self) -> None:
        """Raises UnsupportedError if the source may have missed something until now."""
        if self.replace_broken():
            raise UnsupportedError(self.watched.reason)

    def replace_broken(self) -> bool:
        """Replace a source that is broken, or that failed in a freeze; true if it was.

        What was recorded from a broken source is not trusted either: signatures are dropped and
        everything is read again.
        """
        broken, reason = self.watched.doubted()
        if broken:
            self._state.commit(Batch(drop_index={self._state.record.id}))
        if broken or reason:
            self.watched.replace(broken or reason)
        return bool(broken or reason)

    def drain(self, started: float, *, urgent: bool) -> bool:
        """Take the hints; whether there is anything to scan.

        urgent: retry at once what could not be read.
        """
        self.rely()
        work = self._work
        work.dirty = self._drain()
        self._looked_ns = clock.now_ns()
        if started >= self._comparison.due:
            work.dirty.escalate("the regular comparison is due")
            self.watched.mapped.forget()
        work.hidden = self._unhinted.look_around(work.writers)
        work.again = self._unsettled()
        if urgent or self._held.due(started):
            work.retry = self._held.again()
        return bool(work.dirty or work.hidden or work.again or work.retry)

    def _drain(self, *, frozen: bool = False) -> Dirty:
        dirty = self.watched.drain(frozen=frozen)
        self._work.lost |= dirty.everything and self._source.hinting
        self._work.unseen |= dirty.orphans or dirty.passed
        if self._tree is not None:
            if dirty.unwatched:
                self._tree.unlist()
            self._tree.leave_out(dirty, self._root_fd)
        return dirty

    def precopy(self) -> None:
        """Scan everything that was hinted."""
        work = self._work
        self._unhinted.begin(work.writers)
        tree = self._tree or self._load()
        self._settled = self._tells_content and tree.root.listed
        if work.dirty.everything:
            tree.marked.clear()
        self._round(work.dirty, work.hidden)
        if work.dirty.everything and not self._held.stale:
            tree.lost_links = work.unseen = False
        self._settled = True
        if work.retry:
            started = clock.monotonic()
            self._round(work.retry, Hidden())
            self._held.tried(clock.monotonic(), clock.monotonic() - started)

    def same(self) -> bool:
        """Whether the scan was only due by time, without a hint, and found no change."""
        assert self._tree is not None  # noqa: S101  # loaded at the start of each capture
        head, work = self._state.head, self._work
        self.lacking = self._held.summed_up(self._tree)
        due = is_due(head, self._tree.compute_root(), "", self.lacking) or self._unsettled()
        return not (due or work.dirty.hinted or work.again)

    def end(self) -> None:
        """End the capture before its freeze: nothing had changed."""
        self._unhinted.end()
        self._unhinted.recorded()

    def end_looks(self, started: float) -> None:
        """All scans of the capture are done."""
        assert self._tree is not None  # noqa: S101  # loaded at the start of each capture
        dirty = self._work.dirty
        if dirty.everything:
            self._compared(self._tree, clock.monotonic() - started)
        if self._tree.lost_links or self._work.unseen:
            # The content of links stays recorded until a comparison shows that no name is left. A
            # file that was written under no name, or without a watch, and closed since, is found by
            # a comparison only.
            self._comparison.need(started)
        self._unhinted.end()

    def forget(self) -> None:
        """Drop uncommitted work: the next capture compares all with the newest snapshot."""
        self._work = CaptureState()
        self._tree = None
        self.watched.mapped.frozen = self._held.frozen = False
        self.watched.mapped.forget()
        self._index.clear()
        self._stage.clear()
        self._stage.reset_counts()
        self._looked.clear()
        self._source.escalate("the last capture failed")

    def _compared(self, tree: Worktree, seconds: float) -> None:
        """Everything was compared, over the rounds of this capture."""
        tree.compute_root()
        if not self._held.stale:
            # A directory that could not be read may contain names of links.
            tree.sweep_links()
        self._nameless.clear()
        self._comparison.done(seconds)

    def _load(self) -> Worktree:
        self._recorder.next_link_id = self._state.record.next_link_id
        number = os.fstat(self._root_fd).st_ino
        parts = self.tools.store, self._stage, self._index, self._state, number
        self._tree = base_tree.tree(*parts, self.policy.exclude)
        return self._tree

    # Looking

    def _observer(
        self, check: Callable[[], None], spill: Callable[[Content], None], *,
        still: bool, sums: NameSums | None = None,
    ) -> Scanner:  # fmt: skip
        """The scanner of one round; `still`: writers are frozen, or there is no freeze."""
        assert self._tree is not None  # noqa: S101  # loaded at the start of each capture
        # The first round of a capture reads what mappings that ended before it may have changed.
        # Mappings that came and went since are only known from the source or by a young timestamp;
        # after lost hints from neither.
        horizon = self._horizon_ns
        if self._settled and not self._work.lost:
            since_ns = clock.now_ns() - self._looked_ns + limits.TIMESTAMP_GRANULE_NS
            horizon = 0 if self._tells_content else since_ns
        files = FileReader(
            self._tree, self._source, self.tools.reader, self._index, self.policy.chunk_bits,
            Trust(limits.TIMESTAMP_GRANULE_NS, horizon), spill, self.watched.mapped, self._looked,
            lambda: self._unhinted.mapped_now(self._work.writers), check,
        )  # fmt: skip
        return Scanner(
            self._tree, self._root_fd, self._source, self._index, self._nameless, self._places,
            check, files, self._held, still=still, sums=sums,
        )  # fmt: skip

    def _note_name(self, number: int, old: IndexRecord | None, new: IndexRecord) -> None:
        if not self._unhinted.record_seen(number, old, new):
            self._comparison.need()

    def _round(self, dirty: Dirty, hidden: Hidden) -> None:
        """Scan everything that was hinted, and record it as it is found."""
        writers = self._work.writers
        self._work.figures.rounds += 1
        if dirty.everything:
            self._held.compare_all()
        if dirty.orphans and not writers.pids:
            dirty.escalate("a file was written under a name that is gone")
        hidden = self._unhinted.with_lost(hidden, dirty, writers)
        try:
            observer = self._observer(lambda: None, self._stage.adopt_file, still=self._work.still)
            for window in windows(observer.run(dirty, hidden)):
                self._absorb(window)
        except UnsupportedError as error:
            self.watched.replace(str(error))
            raise

    def look_again(self) -> bool:
        """Without a freeze: scan what changed since the last scan; false when anything did."""
        assert self._tree is not None  # noqa: S101  # loaded at the start of each capture
        work, before = self._work, self._work.root
        dirty = self._drain()
        work.root = self._tree.compute_root()
        hidden = self._unhinted.look_around(work.writers)
        # Hints are always scanned. Without hints, and for what gives none, only two equal results
        # in a row show that nothing moves.
        hinted = dirty.hinted and self._source.hinting
        if not hinted and (work.root == before or not (dirty or hidden)):
            return True
        self._round(dirty, hidden)
        return False

    def moved(self) -> bool:
        """Whether the last scan without a freeze differs from the one before."""
        assert self._tree is not None  # noqa: S101  # loaded at the start of each capture
        return self._tree.compute_root() != self._work.root

    def precopy_more(self) -> None:
        """Scan what changed since the last scan, if there are hints."""
        if self._source.hinting and (dirty := self._drain()).hinted:
            self._round(dirty, Hidden())

    def copy(self, attempt: int, budget: Budget) -> bool:
        """Inside the freeze: copy what changed since the last scan; whether anything had.

        A hint alone is no change: the kernel also touches inodes when it writes pages out. Raises
        FreezeError when there is more than the freeze allows.
        """
        work = self._work
        self.watched.mapped.frozen = self._held.frozen = True
        if attempt == 0:
            work.writers, hidden = self._unhinted.frozen(work.writers)
            work.pending_hidden, work.frozen_hidden = hidden, bool(hidden)
        self.watched.direct.inside(budget.check)
        work.pending = self._drain(frozen=True)
        moved = bool(attempt and not self._source.complete and not self._stood_still(budget))
        if moved:
            work.sums.clear()
        elif attempt and not (self._source.hinting and work.pending.hinted):
            work.pending = Dirty()
            return False
        elif attempt:
            work.pending.compare = ()
        hidden = work.pending_hidden
        work.pending_hidden = self._unhinted.with_lost(hidden, work.pending, work.writers)
        work.frozen_hidden = work.frozen_hidden or bool(work.pending_hidden)
        work.figures.rounds += 1
        sums = None if self._source.complete else work.sums
        observer = self._observer(budget.check, budget.spill, still=True, sums=sums)
        taken: list[Observation] = []
        try:
            for seen in observer.run(work.pending, work.pending_hidden):
                taken.append(seen)
                budget.add(seen)
                moved = observer.is_news(seen, work.copied) or moved
        except UnsupportedError as error:
            # Replacing the source takes too long for a freeze.
            self.watched.give_up(str(error))
            raise
        work.end_round(taken)
        return moved

    def _stood_still(self, budget: Budget) -> bool:
        """Without hints: whether a second scan sees what the last round saw.

        Content that was copied is read again: its timestamps may be too young to prove anything.
        """
        work = self._work
        observer = self._observer(budget.check, budget.spill, still=True, sums=work.sums)
        if not observer.stood_still(work.pending.compare):
            return False
        names: dict[int, set[bytes]] = {}
        for number, name in work.copied:
            if number in work.sums:
                names.setdefault(number, set()).add(name)
        seen = observer.run(Dirty(names=names), Hidden())
        return not any(observer.is_news(each, work.copied) for each in seen)  # else all of it again

    def doubt(self) -> str:
        """Why a copy that saw no change may still not be one instant, or ""."""
        work = self._work
        if work.writers.unfreezable and (work.frozen_hidden or not self._source.complete):
            return "mapped or watched without hints, and written by a process that was not frozen"
        return self._unhinted.doubt

    def thawed(self) -> None:
        """After the freeze: record what was copied, and hint again what it left."""
        work = self._work
        self.watched.mapped.frozen = self._held.frozen = False
        taken, dirty, hidden = work.thawed()
        self._absorb(taken)
        if dirty or hidden:
            self._nameless.clear()  # no search of that round came to its end
            self._round(dirty, hidden)

    # Taking over

    def _absorb(self, seen: list[Observation]) -> None:
        """Put observations into the staged trees and signatures."""
        assert self._tree is not None  # noqa: S101  # loaded at the start of each capture
        self._stage.add_chunks(
            {d: plain for o in seen if o.content is not None for d, plain in o.content.data.items()}
        )
        changes: dict[Directory, dict[bytes, Entry | None]] = {}
        for observation in seen:
            if observation.content is not None:
                self._work.figures.dirty_bytes += observation.content.read_bytes
            self._note_trouble(observation)
            if observation.stale:
                continue
            names = changes.setdefault(observation.directory, {})
            names[observation.name] = self._recorder.entry(observation, self._tree)
        for directory, names in changes.items():
            self._tree.apply(directory, names)
        if self._source.by_range:
            read = [o.status.st_ino for o in seen if o.status is not None]
            self._source.mark_read([number for number in read if self._index.is_new(number)])
        self._places.clear()
        self._looked.clear()
        self._stage.relieve()
        if self._state.head is None:
            self._index.store_early(self._stage)

    def _note_trouble(self, seen: Observation) -> None:
        self._held.record((seen.directory.inode, seen.name), seen.trouble)
        if self._held.beyond:
            self._comparison.need()

    def change(self, reason: str, outcome: Outcome, started: float) -> Change:
        """What to commit: a snapshot, or only signatures where the newest one is right."""
        assert self._tree is not None  # noqa: S101  # loaded at the start of each capture
        self.rely()
        self.watched.refuse_missed()
        root = self._tree.compute_root()
        for placed in self._tree.take_placed():
            parent = placed.parent.inode if placed.parent is not None else 0
            self._index.put_directory(placed.inode, parent, placed.name, placed.content)
        batch = self._stage.batch([root])
        self._source.release(self._index.add_to(batch, self._stage))
        fields = RecordChanges(next_link_id=self._recorder.next_link_id)
        lacking = self.lacking = self._held.summed_up(self._tree)
        if not is_due(self._state.head, root, outcome.fuzzy, lacking):
            return Change(self._state, batch if len(self._index) else Batch(), None, fields)
        seconds = clock.monotonic() - started
        snapshot = as_record(
            self._state.record, self._tree, self._stage, reason, outcome, lacking, seconds
        )
        return Change(self._state, batch, snapshot, fields)

    def recorded(self, outcome: Outcome, started: float) -> None:
        """Everything is committed."""
        self.faulty = False
        self._torn = bool(outcome.fuzzy)
        self._unhinted.recorded()
        self.watched.mapped.give_back(self._source)
        self._index.clear()
        self._stage.clear()
        self._stage.reset_counts()
        self.figures = self._work.figures
        self.figures.freeze_seconds = outcome.freeze_ms / 1000
        self.figures.capture_seconds = clock.monotonic() - started
        self._work = CaptureState()
