"""Takes the snapshots of one volume: pre-copy, freeze, copy the rest, thaw, commit.

Invariants:
- What a source hinted is looked at in the capture that drained it. A capture that fails for any
  reason forgets the tree in memory and compares the whole volume the next time.
- A snapshot is `crash` only if nothing was seen to change between the first look of its last
  round and the end of that round: its writers were frozen, or there were none and all was quiet.
- Signatures, objects, snapshot and head become visible in one transaction.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diffkeeper import clock, counters, failpoint, limits
from diffkeeper.capture import probe
from diffkeeper.capture.scan import ScanSource
from diffkeeper.capture.source import Changed, Dirty, Source
from diffkeeper.engine.mapped import Mapped
from diffkeeper.engine.observation import Hidden, Observation, Trust
from diffkeeper.engine.observe import Observer
from diffkeeper.engine.recorder import Recorder
from diffkeeper.engine.signatures import Index
from diffkeeper.engine.stage import Stage
from diffkeeper.engine.unhinted import Unhinted
from diffkeeper.engine.worktree import Directory, Worktree
from diffkeeper.errors import FreezeError, UnsupportedError
from diffkeeper.format.records import SnapshotRecord
from diffkeeper.format.root import decode_root
from diffkeeper.freeze.writers import Survey, Target, Writers
from diffkeeper.fsio import inode, mounts
from diffkeeper.store.store import Batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffkeeper.capture.features import Feature
    from diffkeeper.engine.content import Content, Reader
    from diffkeeper.engine.volume import VolumeState
    from diffkeeper.format.entry import Entry
    from diffkeeper.format.records import IndexRecord
    from diffkeeper.freeze.freezer import Freezer
    from diffkeeper.store.store import Store

log = logging.getLogger(__name__)
_FREEZE_ATTEMPTS_MAX = 3
_FROZEN_ROUNDS_MAX = 3
_PRECOPY_ENOUGH_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Policy:
    """How one volume is captured; from its options."""

    source: str = "auto"
    freeze: bool = True
    freeze_seconds_max: float = limits.FREEZE_SECONDS_DEFAULT
    level: int | None = 1  # zstd; None stores chunks raw
    chunk_bits: int = limits.CHUNK_BYTES_DEFAULT.bit_length() - 1


@dataclass(slots=True)
class Tools:
    """What all volumes share."""

    store: Store
    freezer: Freezer
    reader: Reader
    cgroup_root: str
    proc_root: str
    sources: probe.Sources = field(default_factory=probe.Sources)


@dataclass(slots=True)
class _Outcome:
    """How one capture went."""

    fuzzy: str = ""
    time_ns: int = 0  # the instant that the snapshot shows; 0 while there is none
    freeze_ms: float = 0.0
    rounds: int = 0
    unfreezable: list[str] = field(default_factory=list)


class Snapshotter:
    """Captures one live directory. Methods may be called from any thread; captures take turns."""

    def __init__(self, tools: Tools, state: VolumeState, live: str, policy: Policy) -> None:
        self._tools = tools
        self._state = state
        self._policy = policy
        self._lock = threading.Lock()
        self._root_fd = os.open(live, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        device, root, self.fs_type = mounts.locate(live)
        self.target = Target(device, root)
        device_number = os.fstat(self._root_fd).st_dev
        own = os.path.dirname(live)
        place = probe.Place(device_number, self.fs_type, policy.chunk_bits, own)
        choice = tools.sources.choose(policy.source, place)
        self._source: Source = choice.source
        self._mapped = Mapped(self._source.window_bits)
        self.source_reason = choice.reason
        self._horizon_ns = inode.mmap_dirty_horizon_ns()
        self._index = Index(tools.store, state.record.id)
        self._stage = Stage(tools.store, policy.level)
        self._recorder = Recorder(self._stage, self._index, self._note_name)
        self._tree: Worktree | None = None
        self._nameless: dict[int, int] = {}
        self._still = True
        self._places: dict[int, tuple[int, bytes]] = {}
        # What was read of files since signatures were taken over: a further look reads it again.
        self._looked: dict[int, Changed] = {}
        survey = Survey(tools.proc_root, tools.cgroup_root)
        self._unhinted = Unhinted(survey, device, self._mapped.armed)
        self._unhinted.by_range = self._source.by_range
        self._settled = False
        self._looked_ns = 0  # when this capture began to look
        # Hints are never truth: from time to time everything is compared, whatever was hinted.
        self._compare_due = clock.monotonic() + limits.COMPARE_SECONDS
        self._compare_soon = limits.COMPARE_SOON_SECONDS
        self.cpu_seconds = 0.0
        self._source.escalate("the volume was not watched before")

    @property
    def source_name(self) -> str:
        """The source in use."""
        return self._source.name

    @property
    def features(self) -> tuple[Feature, ...]:
        """What of eBPF matters to the volume; nothing where it is not considered."""
        considered = probe.considers_ebpf(self._policy.source)
        return self._tools.sources.matter(self.fs_type) if considered else ()

    def close(self) -> None:
        """Stop watching; waits for a capture under way."""
        with self._lock:
            self._source.stop()
            os.close(self._root_fd)

    def pending(self, writers: Writers) -> bool:
        """Whether a capture would find work; cheap."""
        due = clock.monotonic() >= self._compare_due or self._unsettled()
        return due or self._source.pending() or bool(self._unhinted.look(writers))

    def _unsettled(self) -> bool:
        """Whether the newest snapshot is fuzzy, so that one instant of the same is still due."""
        head = self._state.head
        return head is not None and head.consistency == "fuzzy"

    def capture(
        self, reason: str, writers: Writers, *, freeze: bool = True
    ) -> SnapshotRecord | None:
        """Record what changed as a new snapshot; None when the newest one still holds.

        `writers`: who has the volume mounted. Raises NoSpaceError, LostError, OSError, …; what
        was not recorded stays due.
        """
        with self._lock:
            started, cpu = clock.monotonic(), clock.thread_cpu()
            threads_cpu = self._tools.reader.cpu_seconds
            try:
                return self._relying(reason, writers, freeze and self._policy.freeze, started)
            except BaseException:
                self._forget()
                raise
            finally:
                used = clock.thread_cpu() - cpu + self._tools.reader.cpu_seconds - threads_cpu
                self.cpu_seconds += used
                counters.add("capture_cpu_seconds_total", used, volume=self._state.record.name)

    def _relying(
        self, reason: str, writers: Writers, freeze: bool, started: float
    ) -> SnapshotRecord | None:
        """Capture; once more where the source gave up meanwhile, with what replaced it."""
        while True:
            source = self._source
            try:
                self._rely()
                return self._capture(reason, writers, freeze, started)
            except (UnsupportedError, OSError):
                self._replace_broken()
                if self._source is source:
                    raise
                self._forget()

    def _rely(self) -> None:
        """Raises UnsupportedError when the source may not have told everything until now."""
        if self._replace_broken():
            raise UnsupportedError(self.source_reason)

    def _replace_broken(self) -> bool:
        """Fall back from a source that is broken; true if it was.

        What was recorded from it meanwhile is not to be trusted either, so that signatures are
        dropped and everything is read again.
        """
        broken = self._source.broken()
        if broken:
            self._state.commit(Batch(drop_index={self._state.record.id}))
            self._fall_back(broken)
        return bool(broken)

    def _forget(self) -> None:
        """Drop all unstored work: the next capture compares everything with the newest snapshot."""
        self._tree = None
        self._mapped.frozen = False
        self._mapped.forget()
        self._index.clear()
        self._stage.clear()
        self._stage.reset_counts()
        self._source.escalate("the last capture failed")

    def _capture(
        self, reason: str, writers: Writers, freeze: bool, started: float
    ) -> SnapshotRecord | None:
        outcome = _Outcome()
        dirty = self._source.drain()
        self._looked_ns = clock.now_ns()
        if started >= self._compare_due:
            dirty.escalate("the regular comparison is due")
        if dirty.everything:
            self._mapped.forget()
        hidden = self._unhinted.look(writers)
        again = self._unsettled()
        if not dirty and not hidden and not again:
            return None
        self._unhinted.begin(writers)
        failpoint.hit("capture.drained")
        tree = self._tree or self._load()
        self._settled = self._source.complete and tree.root.listed
        self._still = not (freeze and writers.cgroups)
        if dirty.everything:
            tree.marked.clear()
        self._round(dirty, hidden, writers)
        self._settled = True
        head = self._state.head
        same = head is not None and tree.settle().hex() == head.root
        if same and not dirty and not again:
            self._unhinted.end()
            self._unhinted.taken()
            return None
        failpoint.hit("capture.precopied")
        if freeze and writers.cgroups:
            self._frozen(writers, outcome)
        else:
            self._until_quiet(writers, outcome)
        failpoint.hit("capture.thawed")
        if dirty.everything:
            self._compared(tree, clock.monotonic() - started)
        elif tree.lost_links or dirty.orphans:
            # What links hold stays recorded until a comparison shows that no name is left, and
            # a file that was written under no name and closed is found by a comparison alone.
            self._compare_due = min(self._compare_due, started + self._compare_soon)
        self._unhinted.end()
        if writers.unfreezable and freeze and outcome.fuzzy:
            outcome.fuzzy += f"; not freezable: {', '.join(writers.unfreezable)}"
        return self._commit(reason, outcome, started)

    def _compared(self, tree: Worktree, seconds: float) -> None:
        """Everything was compared, in this capture's rounds together."""
        tree.settle()
        tree.sweep_links()
        self._nameless.clear()
        share = limits.COMPARE_SHARE * seconds
        self._compare_soon = max(limits.COMPARE_SOON_SECONDS, share)
        self._compare_due = clock.monotonic() + max(limits.COMPARE_SECONDS, share)

    def _load(self) -> Worktree:
        head = self._state.head
        root = bytes.fromhex(head.root) if head is not None else None
        self._recorder.next_link_id = self._state.record.next_link_id
        number = os.fstat(self._root_fd).st_ino
        entry = decode_root(self._stage.get(root))[0] if root is not None else None
        same = entry is not None and self._index.has_directory(number, 0, b"", entry.content)
        self._tree = Worktree(self._stage, number, root, same=same)
        return self._tree

    # Looking

    def _observer(
        self, check: Callable[[], None], spill: Callable[[Content], None], *, still: bool
    ) -> Observer:
        """A round of looking; `still`: the writers are frozen, or there will be no freeze."""
        assert self._tree is not None  # noqa: S101  # loaded at the start of each capture
        # The first round of a capture settles all doubt about mappings that ended before it. Of
        # those that came and went since, only the source or a young timestamp tells.
        horizon = self._horizon_ns
        if self._settled:
            since_ns = clock.now_ns() - self._looked_ns + limits.TIMESTAMP_GRANULE_NS
            horizon = 0 if self._source.complete else since_ns
        return Observer(
            self._tree,
            self._root_fd,
            self._source,
            self._tools.reader,
            self._index,
            self._policy.chunk_bits,
            Trust(limits.TIMESTAMP_GRANULE_NS, horizon),
            self._nameless if still else None,
            self._places,
            check,
            spill,
            self._mapped,
            self._looked,
        )

    def _note_name(self, number: int, old: IndexRecord | None, new: IndexRecord) -> None:
        if not self._unhinted.note(number, old, new):
            self._compare_due = min(self._compare_due, clock.monotonic() + self._compare_soon)

    def _round(self, dirty: Dirty, hidden: Hidden, writers: Writers) -> None:
        """Look at everything hinted, and take it over as it comes."""
        if dirty.orphans and not writers.pids:
            dirty.escalate("a file was written under a name that is gone")
        elif dirty.orphans:
            hidden = self._unhinted.with_open(hidden, writers)
        window: list[Observation] = []
        size = 0
        try:
            observer = self._observer(lambda: None, self._spill, still=self._still)
            for seen in observer.run(dirty, hidden):
                window.append(seen)
                size += seen.content.data_bytes if seen.content else 0
                if size > limits.OBSERVE_BYTES_MAX or len(window) > limits.OBSERVE_NAMES_MAX:
                    self._absorb(window)
                    window, size = [], 0
        except UnsupportedError as error:
            self._fall_back(str(error))
            raise
        self._absorb(window)

    def _fall_back(self, reason: str) -> None:
        """The source gave up: the next coarser one from now on."""
        self._source.stop()
        if self._source.by_range:
            place = probe.Place(0, self.fs_type, self._policy.chunk_bits)
            choice = self._tools.sources.choose("inotify", place)
            self._source = choice.source
            self.source_reason = f"{reason}; {choice.reason}"
        else:
            self._source, self.source_reason = ScanSource(), reason
        volume, name = self._state.record.name, self._source.name
        counters.add("capture_fallbacks_total", volume=volume, source=name)
        log.warning(
            "fell_back", extra={"volume": volume, "source": name, "reason": self.source_reason}
        )
        self._unhinted.by_range = False
        self._mapped.forget()

    def _spill(self, content: Content) -> None:
        """Take the data of a large file over while it is still being read."""
        self._stage.add_chunks(content.data)
        content.data.clear()
        content.data_bytes = 0
        content.fold(self._stage.get, self._stage.put)
        self._stage.relieve()

    def _until_quiet(self, writers: Writers, outcome: _Outcome) -> None:
        """Rounds without a freeze until one sees nothing change while it looks."""
        assert self._tree is not None  # noqa: S101  # loaded at the start of each capture
        root = b""
        for _ in range(limits.PRECOPY_ROUNDS_MAX):
            outcome.rounds += 1
            outcome.time_ns = clock.now_ns()
            dirty, before = self._source.drain(), root
            root = self._tree.settle()
            hidden = self._unhinted.look(writers)
            # What was hinted is always looked at. Without hints, and for what gives none, only
            # the same result twice shows quiet.
            hinted = dirty and self._source.complete
            if not hinted and (root == before or not (dirty or hidden)):
                return
            self._round(dirty, hidden, writers)
        if self._tree.settle() != root:
            outcome.fuzzy = "written to while it was read, by a process that was not frozen"

    def _frozen(self, writers: Writers, outcome: _Outcome) -> None:
        """Freeze the writers, copy what is still dirty to memory, thaw, take it over.

        A freeze that fails is tried again: a writer that waits for its disk cannot be frozen just
        then, and what was too much to copy has been copied meanwhile.
        """
        for _ in range(_FREEZE_ATTEMPTS_MAX):
            self._converge(writers)
            if self._freeze(writers, outcome):
                break
        if outcome.freeze_ms:
            counters.observe(
                "freeze_seconds", outcome.freeze_ms / 1000, volume=self._state.record.name
            )

    def _freeze(self, writers: Writers, outcome: _Outcome) -> bool:
        """One freeze, within its limit; false when it could not be had."""
        limit = self._policy.freeze_seconds_max
        taken: list[Observation] = []
        pending = _Pending(Dirty(), Hidden())
        try:
            with self._tools.freezer.frozen(writers.cgroups, limit) as frozen:
                failpoint.hit("capture.frozen")
                outcome.time_ns = clock.now_ns()
                outcome.fuzzy = self._copy(writers, _Budget(frozen.remaining), taken, pending)
            self._mapped.frozen = False
            if frozen.expired:
                outcome.fuzzy = f"the freeze ended after its limit of {limit * 1000:.0f} ms"
            outcome.freeze_ms = frozen.seconds * 1000
            self._absorb(taken)
            return not frozen.expired
        except FreezeError as error:
            self._mapped.frozen = False
            outcome.fuzzy = str(error)
            self._absorb(taken)
            self._round(pending.dirty, pending.hidden, writers)
            return False

    def _copy(
        self, writers: Writers, budget: _Budget, taken: list[Observation], pending: _Pending
    ) -> str:
        """Inside the freeze: copy what changed. Returns why it is not one instant, or nothing."""
        self._mapped.frozen = True
        pending.hidden = self._unhinted.look(writers)
        if len(pending.hidden.opened) > limits.FROZEN_LOOKS_MAX:
            pending.hidden = self._unhinted.only_open(pending.hidden, writers)
        for attempt in range(_FROZEN_ROUNDS_MAX):
            self._await_direct(budget)
            pending.dirty = self._source.drain(frozen=True)
            if pending.dirty.everything:
                self._mapped.forget()
            if attempt and not (pending.dirty and self._source.complete):
                pending.dirty = Dirty()
                break
            if pending.dirty.orphans:
                pending.hidden = self._unhinted.with_open(pending.hidden, writers)
            for seen in self._observer(budget.check, budget.spill, still=True).run(
                pending.dirty,
                Hidden() if attempt else pending.hidden,
            ):
                taken.append(seen)
                budget.add(seen)
        else:
            return "written to during the freeze, by a process that was not frozen"
        if writers.unfreezable and (pending.hidden or not self._source.complete):
            return "mapped or watched without hints, and written by a process that was not frozen"
        return ""

    def _await_direct(self, budget: _Budget) -> None:
        """Direct I/O that was begun before the freeze ends by itself, as it does after a kill."""
        while self._source.under_way():
            budget.check()
            clock.sleep(limits.EBPF_DIRECT_POLL_SECONDS)

    def _converge(self, writers: Writers) -> None:
        """Further pre-copy rounds while they are long, so that little is left for the freeze."""
        for _ in range(limits.PRECOPY_ROUNDS_MAX):
            if not self._source.complete:
                return
            started = clock.monotonic()
            dirty = self._source.drain()
            if dirty:
                self._round(dirty, Hidden(), writers)
            if clock.monotonic() - started < _PRECOPY_ENOUGH_SECONDS:
                return

    # Taking over

    def _absorb(self, seen: list[Observation]) -> None:
        """Put what was seen into the staged trees and signatures."""
        assert self._tree is not None  # noqa: S101  # loaded at the start of each capture
        self._stage.add_chunks(
            {d: plain for o in seen if o.content is not None for d, plain in o.content.data.items()}
        )
        changes: dict[Directory, dict[bytes, Entry | None]] = {}
        for observation in seen:
            names = changes.setdefault(observation.directory, {})
            names[observation.name] = self._recorder.entry(observation, self._tree)
        for directory, names in changes.items():
            self._tree.apply(directory, names)
        if self._source.by_range:
            read = [o.status.st_ino for o in seen if o.status is not None]
            self._source.settle([number for number in read if self._index.is_new(number)])
        self._places.clear()
        self._looked.clear()
        self._stage.relieve()

    def _commit(self, reason: str, outcome: _Outcome, started: float) -> SnapshotRecord | None:
        assert self._tree is not None  # noqa: S101  # loaded at the start of each capture
        self._rely()
        root = self._tree.settle()
        for placed in self._tree.take_placed():
            parent = placed.parent.inode if placed.parent is not None else 0
            self._index.put_directory(placed.inode, parent, placed.name, placed.content)
        batch = self._stage.batch([root])
        self._source.release(self._index.add_to(batch, self._stage))
        head = self._state.head
        unchanged = head is not None and head.root == root.hex()
        healed = unchanged and head is not None and head.consistency == "fuzzy"
        if unchanged and not (healed and not outcome.fuzzy):
            if len(self._index):
                self._state.commit(batch, next_link_id=self._recorder.next_link_id)
            self._done()
            return None
        record = self._state.record
        capture_ms = (clock.monotonic() - started) * 1000
        snapshot = SnapshotRecord(
            volume_id=record.id,
            seq=record.next_seq,
            parent=record.head,
            root=root.hex(),
            time_ns=outcome.time_ns or clock.now_ns(),
            consistency="fuzzy" if outcome.fuzzy else "crash",
            reason=reason,
            files=self._tree.files,
            bytes=self._tree.size,
            new_bytes=self._stage.new_bytes,
            stored_bytes=self._stage.stored_bytes,
            freeze_ms=round(outcome.freeze_ms, 3),
            capture_ms=round(capture_ms, 3),
            cause=outcome.fuzzy,
        )
        failpoint.hit("capture.before_commit")
        self._state.commit(batch, snapshot, next_link_id=self._recorder.next_link_id)
        self._done()
        _count(record.name, snapshot)
        return snapshot

    def _done(self) -> None:
        self._unhinted.taken()
        self._mapped.give_back(self._source)
        self._index.clear()
        self._stage.clear()
        self._stage.reset_counts()


@dataclass(slots=True)
class _Pending:
    """What the round under way looks at: due again if the freeze ends it early."""

    dirty: Dirty
    hidden: Hidden


class _Budget:
    """Time and memory of one freeze; exceeding either ends the freeze early."""

    def __init__(self, remaining: Callable[[], float]) -> None:
        self._remaining = remaining
        self._bytes = 0

    def check(self) -> None:
        if self._remaining() <= 0:
            raise FreezeError("more had changed than could be copied within the freeze limit")

    def spill(self, content: Content) -> None:
        self.check()
        if self._bytes + content.data_bytes > limits.FROZEN_COPY_BYTES_MAX:
            raise FreezeError(
                f"more than {limits.FROZEN_COPY_BYTES_MAX} bytes had changed within the freeze"
            )

    def add(self, seen: Observation) -> None:
        self._bytes += seen.content.data_bytes if seen.content else 0
        self.check()


def _count(volume: str, snapshot: SnapshotRecord) -> None:
    counters.add(
        "snapshots_total", volume=volume, consistency=snapshot.consistency, reason=snapshot.reason
    )
    counters.observe("capture_seconds", snapshot.capture_ms / 1000, volume=volume)
    if snapshot.consistency == "fuzzy":
        counters.add("fuzzy_total", volume=volume)
