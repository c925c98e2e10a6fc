"""Files that may change without a hint.

Three things hide a write from a source that watches names: a shared mapping, asynchronous I/O, and
a descriptor that was opened under a name which the file has lost since. The first two show in the
writers' mappings; for the third, a file that is new or changed its name is scanned in every capture
until nobody has it open for writing.

A source that watches files misses only the mapping, and of that it sees the first store to each
page that was written out. A file newly mapped is written out and read as a whole once; then it is
armed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from diffkeeper import clock
from diffkeeper.format.entry import Kind
from diffkeeper.snapshot.observation import UnseenFiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from diffkeeper.format.records import IndexRecord
    from diffkeeper.freeze.writers import Writers
    from diffkeeper.snapshot.context import CaptureContext
    from diffkeeper.snapshot.watcher import Watcher
    from diffkeeper.sources.base import Dirty

ALIASED_MAX = 5_000
FROZEN_SCANS_MAX = 500
ARMED_SECONDS = 60.0


class UnseenWrites:
    """Unseen writes of one volume's writers; not thread safe."""

    def __init__(self, context: CaptureContext, watcher: Watcher, volume: int) -> None:
        self._survey = context.survey
        self._outside = context.outside
        self._store = context.store
        self._volume = volume
        self.doubt = ""  # why a frozen volume may have been written to, as of the last survey
        self._watcher = watcher
        self._device = watcher.place[0]
        self._armed = watcher.mapped.armed  # files whose stores the source sees
        self._mapped: set[int] = set()
        self._mapped_now: set[int] = set()
        self._renamed: set[int] = set()
        self._closed: set[int] = set()
        self._disarm_due = 0.0
        self._below: set[int] = set()  # processes in the writers' cgroups, as of this survey
        self._around: Mapping[int, int] = {}  # mappings of all processes, as last seen
        self._strangers: dict[int, int] = {}

    @property
    def _by_range(self) -> bool:
        """Whether the source watches files."""
        return self._watcher.source.by_range

    def due_files(self, writers: Writers) -> UnseenFiles:
        """The files to scan now. Fast enough for the inside of a freeze."""
        if self._by_range:
            if writers.pids:
                self._mapped_now |= self._survey.unseen_writes(writers.pids, self._device).inodes
            return self.known()
        opened = set(self._renamed)
        if writers.pids:
            # Containers within a container have the volume through an overlay only.
            found = self._survey.unseen_writes(self._processes(writers), self._device)
            self._mapped_now |= found.inodes
            number = self._watcher.number
            self._mapped_now |= self._survey.overlaid(found, writers.pids, number)
            if found.rings:
                opened |= self._survey.open_for_write(found.rings, self._device)
        return UnseenFiles(self._maybe_mapped(), frozenset(opened))

    def survey_all(self, writers: Writers) -> UnseenFiles:
        """As `due_files`, with files that processes other than the writers have mapped. Too slow
        for a freeze.
        """
        self.doubt = ""
        if self._by_range:
            return self.due_files(writers)
        self._below = self._survey.members(writers.cgroups)
        unseen = self.due_files(writers)
        around = self._outside.mapped(self._device)
        if around is not self._around:
            self._around, self._strangers = around, self._others(around, writers)
        for number, pid in self._strangers.items():
            self.doubt = f"file with inode {number} is mapped by process {pid}, which is not frozen"
        return replace(unseen, mapped=unseen.mapped | self._strangers.keys())

    def _others(self, around: Mapping[int, int], writers: Writers) -> dict[int, int]:
        """Files of the volume that processes other than its writers have mapped; inode number to a
        process.
        """
        pids = self._processes(writers) if around else set()
        return {
            number: pid
            for number, pid in around.items()
            if pid not in pids and self._store.index(self._volume, number) is not None
        }

    def _processes(self, writers: Writers) -> set[int]:
        """The writers, and processes in their cgroups that have no mount of the volume."""
        return {*writers.pids, *self._below}

    def frozen(self, writers: Writers) -> tuple[Writers, UnseenFiles]:
        """In a freeze: the writers as of now, and the files that they may change unseen."""
        if self._watcher.source.sees_mappings:
            # What was mapped since the survey is hinted, and new files are checked when they are
            # seen.
            unseen = self.known()
        else:
            writers = self.with_young(writers)
            self._below = set(writers.pids)
            unseen = self.due_files(writers)
        if len(unseen.opened) > FROZEN_SCANS_MAX:
            unseen = self.only_open(unseen, writers)
        return writers, unseen

    def known(self) -> UnseenFiles:
        """The files to scan, of those known to be mapped; asks no process."""
        return UnseenFiles(self._maybe_mapped() - self._armed)

    def _maybe_mapped(self) -> frozenset[int]:
        """Files with a mapping that ended after a scan: it may have been stored to until its
        end.
        """
        return frozenset(self._mapped_now | self._mapped)

    def mapped_now(self, writers: Writers) -> frozenset[int]:
        """The files that are mapped now, and whose stores may be unseen."""
        pids = self.with_young(writers).pids
        if pids:
            self._mapped_now |= self._survey.unseen_writes(pids, self._device).inodes
        return frozenset(self._mapped_now - self._armed)

    def with_young(self, writers: Writers) -> Writers:
        """The writers with processes that were forked in their cgroups since; in a freeze there are
        no more.
        """
        pids = {*writers.pids, *self._survey.members(writers.cgroups)}
        return replace(writers, pids=tuple(sorted(pids)))

    def unarmed(self) -> bool:
        """Whether a file is known that may be written to unseen."""
        if self._by_range:
            return bool(self.known())
        return bool(self._maybe_mapped() or self._renamed or self._strangers)

    def with_lost(self, unseen: UnseenFiles, dirty: Dirty, writers: Writers) -> UnseenFiles:
        """With files that may have been written through a descriptor whose name is gone, if one
        was.

        Such a file is still open for writing; or it was closed, and may have been mapped until
        then: then it is new, or has a new name.
        """
        if not dirty.orphans:
            return unseen
        opened = self._open(writers)
        mapped = dirty.unnamed | (self._renamed if dirty.closed else set())
        return UnseenFiles(unseen.mapped | mapped, unseen.opened | opened)

    def _open(self, writers: Writers) -> set[int]:
        """Files that are open for writing, including those of processes that were just forked."""
        return self._survey.open_for_write(self.with_young(writers).pids, self._device)

    def only_open(self, unseen: UnseenFiles, writers: Writers) -> UnseenFiles:
        """Without the files that nobody has open for writing."""
        return replace(unseen, opened=unseen.opened & self._open(writers))

    def begin(self, writers: Writers) -> None:
        """Begin a capture: a file that is not open now is scanned once, and needs no further
        scan.
        """
        self._closed = self._renamed - self._open(writers) if self._renamed else set()

    def record_seen(self, number: int, old: IndexRecord | None, new: IndexRecord) -> bool:
        """Record that a file was scanned; false when it should be remembered and there is no room.

        Who opened it under another name may go on writing: the hint names that other name.
        """
        if self._by_range:
            return True
        linked = new.link_id or (old is not None and old.link_id)
        stayed = old is not None and (old.parent_ino, old.name) == (new.parent_ino, new.name)
        if new.kind != Kind.FILE or (stayed and not linked):
            return True
        self._closed.discard(number)
        if len(self._renamed) >= ALIASED_MAX:
            return False
        self._renamed.add(number)
        return True

    def end(self) -> None:
        """The scans of a capture are done."""
        self._renamed -= self._closed
        self._closed = set()

    def recorded(self) -> None:
        """Everything is committed. Files that were mapped meanwhile are scanned once more in the
        next capture.
        """
        self._mapped, self._mapped_now = self._mapped_now, set()
        now = clock.monotonic()
        if self._by_range and self._armed and now >= self._disarm_due:
            # Somebody who is no writer may still have one mapped, with all page faults behind it.
            self._armed &= self._mapped | self._survey.mapped_by_anybody(self._device)
            self._disarm_due = now + ARMED_SECONDS
