"""One volume while it is watched: what is known of it from one capture to the next.

Each capture goes on from the tree that the one before has left. A capture that fails drops that
tree, and the next one compares the whole volume.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

from diffkeeper import clock
from diffkeeper.errors import UnsupportedError
from diffkeeper.freeze.writers import Target
from diffkeeper.fsio import inode
from diffkeeper.snapshot import staged_tree
from diffkeeper.snapshot.capture_state import Drained, Figures
from diffkeeper.snapshot.comparisons import Comparisons
from diffkeeper.snapshot.exclusions import cause_of
from diffkeeper.snapshot.held_back import HeldBack, Lacking
from diffkeeper.snapshot.unseen_writes import UnseenWrites
from diffkeeper.snapshot.watcher import Watcher
from diffkeeper.store.store import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffkeeper.format.records import IndexRecord
    from diffkeeper.freeze.writers import Writers
    from diffkeeper.snapshot.context import CaptureContext
    from diffkeeper.snapshot.policy import CapturePolicy
    from diffkeeper.snapshot.staged_tree import StagedTree
    from diffkeeper.snapshot.volume_state import VolumeState
    from diffkeeper.sources.base import Dirty, Source


class WatchedVolume:
    """A live directory for as long as it is watched.

    `pending`, `quiet` and `close` may be called from any thread, the rest by who holds `lock`.

    lock: held during a capture; closed: there will be no more.
    context, state, policy: shared by all volumes; the stored record; options of captures.
    root_fd, target: the live directory, opened; how the survey names it.
    watcher: the source, and mapped files. unseen: writes that no source hints.
    comparison: when everything is compared. held: names that could not be read or recorded.
    nameless: inodes for which no name was found, with their timestamps at that time.
    horizon_ns: time for which a mapped page may be stored to without a trace.
    lacking: what is missing from the newest state.
    faulty: the last capture failed because of this volume.
    figures: of the last capture that was committed.
    cpu_seconds, frozen_seconds: of its captures; of the writers, for them.
    """

    def __init__(
        self, context: CaptureContext, state: VolumeState, live: str, policy: CapturePolicy
    ) -> None:
        self.context = context
        self.state = state
        self.policy = policy
        self.lock = threading.Lock()
        self.closed = False
        self.faulty = False
        self.root_fd = os.open(live, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.watcher = Watcher(context, state.record.name, live, self.root_fd, policy)
        self.target = Target(*self.watcher.place)
        self.horizon_ns = inode.mmap_dirty_horizon_ns()
        self.unseen = UnseenWrites(context, self.watcher, state.record.id)
        self.comparison = Comparisons()
        self.held = HeldBack(policy.exclude)
        self.nameless: dict[int, int] = {}
        self.lacking = Lacking(cause_of(policy.exclude), stale=False)
        self.figures = Figures()
        self.cpu_seconds = self.frozen_seconds = 0.0
        self._torn = False  # the last capture was not of one instant
        # None before the first capture, and after one that failed: everything is compared then.
        self._staged: StagedTree | None = None
        self._overflowed = False  # see `StatCache`

    @property
    def source(self) -> Source:
        """The source in use; it may be replaced by a coarser one."""
        return self.watcher.source

    @property
    def volume(self) -> str:
        """The volume's name."""
        return self.state.record.name

    @property
    def volume_id(self) -> int:
        """The volume's id."""
        return self.state.record.id

    def close(self) -> None:
        """Stop watching; waits for a capture under way."""
        with self.lock:
            self.closed = True
            self.source.stop()
            os.close(self.root_fd)

    # Whether a capture is due

    def pending(self, writers: Writers) -> bool:
        """Whether a capture would find work; cheap."""
        return bool(self._is_due() or self.source.pending() or self.unseen.survey_all(writers))

    def quiet(self) -> bool:
        """Whether only a survey of processes could make `pending` true; see `trusting`."""
        if not self.source.complete or self._is_due() or self.source.pending():
            return False
        return not self.unseen.unarmed()

    @property
    def trusting(self) -> bool:
        """Whether the source sees all but stores to files that were mapped since the last survey.

        With any other source processes are surveyed at each interval. Even in such a file the first
        store moves the timestamp, unless it falls into the clock tick of the mapping.
        """
        return self.source.by_range

    def _is_due(self) -> bool:
        now = clock.monotonic()
        return now >= self.comparison.due or self.lacks_snapshot() or self.held.due(now)

    def lacks_snapshot(self) -> bool:
        """Whether a crash-consistent snapshot of the newest state, or a part of it, is missing."""
        head = self.state.head
        if head is None:
            return False
        torn = head.consistency == "fuzzy" and (self._torn or not self.lacking.stale)
        return torn or not self.lacking.is_recorded_in(head)

    # The source

    @property
    def tells_content(self) -> bool:
        """Whether the source sees all stores, or when a mapping of a hinted file ends."""
        return self.source.complete or self.source.by_range

    def rely(self) -> None:
        """Raises UnsupportedError if the source may have missed something until now."""
        if self.replace_broken():
            raise UnsupportedError(self.watcher.reason)

    def replace_broken(self) -> bool:
        """Replace a source that is broken, or that failed in a freeze; true if it was.

        What was recorded from a broken source is not trusted either: signatures are dropped and
        everything is read again.
        """
        broken, reason = self.watcher.doubted()
        if broken:
            self.state.commit(Batch(drop_index={self.state.record.id}))
        if broken or reason:
            self.watcher.replace(broken or reason)
        return bool(broken or reason)

    def drain(self, started: float, writers: Writers, *, urgent: bool) -> Drained:
        """Take the hints, for a capture that began at `started`.

        urgent: retry at once what could not be read. Raises UnsupportedError as `rely`.
        """
        self.rely()
        found = Drained()
        found.dirty = self.drain_hints(found)
        found.began_ns = clock.now_ns()
        if started >= self.comparison.due:
            found.dirty.escalate("the regular comparison is due")
            self.watcher.mapped.forget()
        found.unseen_files = self.unseen.survey_all(writers)
        found.again = self.lacks_snapshot()
        if urgent or self.held.due(started):
            found.retry = self.held.again()
        return found

    def drain_hints(self, drained: Drained, *, frozen: bool = False) -> Dirty:
        """Take the hints but those of excluded names; `drained`: of the same capture."""
        dirty = self.watcher.drain(frozen=frozen)
        drained.doubt(dirty, hinting=self.source.hinting)
        if self._staged is not None:
            tree = self._staged.tree
            if dirty.unwatched:
                tree.unlist()
            tree.leave_out(dirty, self.root_fd)
        return dirty

    # From one capture to the next

    def staged(self) -> StagedTree:
        """The tree of the last capture, or the newest snapshot's. Raises as `staged_tree.load`."""
        if self._staged is None:
            self._staged = staged_tree.load(
                self.context.store, self.state, os.fstat(self.root_fd).st_ino, self.policy,
                self._record_name, overflowed=self._overflowed,
            )  # fmt: skip
        return self._staged

    def _record_name(self, number: int, old: IndexRecord | None, new: IndexRecord) -> None:
        if not self.unseen.record_seen(number, old, new):
            self.comparison.need()

    @contextlib.contextmanager
    def within_freeze(self) -> Iterator[None]:
        """Inside the block nothing waits for a disk, and what could not be read is not retried."""
        self.watcher.mapped.frozen = self.held.frozen = True
        try:
            yield
        finally:
            self.watcher.mapped.frozen = self.held.frozen = False

    def compared(self, seconds: float) -> None:
        """Record that everything was compared, in so many seconds."""
        self.nameless.clear()
        self.comparison.done(seconds)

    def recorded(self, *, torn: bool) -> None:
        """Record that a capture was committed; `torn`: it was not of one instant."""
        self.faulty = False
        self._torn = torn
        self.unseen.recorded()
        self.watcher.mapped.give_back(self.source)

    def forget(self) -> None:
        """Drop uncommitted work: the next capture compares all with the newest snapshot."""
        if self._staged is not None:
            self._overflowed = self._staged.index.overflowed
        self._staged = None
        self.watcher.mapped.forget()
        self.source.escalate("the last capture failed")
