"""Background maintenance of the store: pack index, deltas, garbage, objects of older formats.

All work is a sequence of short steps, each at most one short transaction, so that it can stop after
any of them; a commit waits for one step at most. One thread at a time runs it.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from diffkeeper import clock, counters, limits
from diffkeeper.errors import BusyError, CorruptionError, NotFoundError
from diffkeeper.format.merkle import pairs
from diffkeeper.messages.store import MaintenanceReport
from diffkeeper.snapshot.stat_cache_expiry import StatCacheExpiry
from diffkeeper.space.deltas import DeltaEncoder, Successors
from diffkeeper.store import tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffkeeper.format.records import SnapshotRecord
    from diffkeeper.store.gc import Collector
    from diffkeeper.store.store import Store

log = logging.getLogger(__name__)

DELTA_VERSIONS_MAX = 65_536  # in one round
DELTA_SNAPSHOTS_MAX = 60  # in one round of delta encoding
DELTA_SECONDS_MAX = 60.0  # until the next round, however few snapshots came
COLLECT_SECONDS_MIN = 60.0  # between two collections: each walks all snapshots
# For holders, before a collection is cancelled and its marks are lost: a capture of very many
# files on a busy machine takes half a minute. Deltas wait as long.
COLLECT_WAIT_SECONDS = 60.0
DEBT_BYTES_MIN = 64 * limits.MIB  # growth of a store below that size is no debt
COLLECT_SLOW_SECONDS = 300.0  # after which a collection is logged at level info
COLLECT_ASK_SECONDS = 1.0  # between two checks, while `run_all` waits, for the daemon's end


class Maintenance:
    """Maintenance of one store. Any thread may call; calls are serialised.

    A collection waits for callers that are inside `Store.holding`: captures for a moment, imports
    for as long as they take. It is cancelled for a long one, and starts again once that has ended;
    deltas, merges and scrubbing continue meanwhile.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._work: Iterator[object] | None = None
        self._report = MaintenanceReport()
        self._collected_at = float("-inf")
        # Of the store after its last collection, which may have been another daemon's.
        self._collected_bytes = store.numbers.get(tables.META_COLLECTED_BYTES) or 0
        self._encoded_at: dict[int, float] = {}
        self._collecting = False
        self._carried = False
        self._signatures = StatCacheExpiry(store)
        self._awaited: frozenset[object] = frozenset()  # holders that made it cancel a collection
        self._stopped = threading.Event()
        self.damage: list[str] = []  # damage that the last run found, for a person

    @property
    def urgent(self) -> bool:
        """Whether space is short, so that maintenance may take more of a core."""
        return self._store.repack.urgent

    def debt(self) -> float:
        """By which part of it the store has grown since garbage was collected last; 0 where there
        is none.
        """
        if not (self._store.repack.garbage or self._collecting):
            return 0.0
        grown = self._store.used_bytes() - self._collected_bytes
        return max(0, grown) / max(self._collected_bytes, DEBT_BYTES_MIN)

    def run_slice(self, budget_seconds: float) -> bool:
        """Do some of what is due, for about that long; whether there is more to do now."""
        with self._lock:
            if self._work is None:
                self._work = self._due(everything=False)
            return self._advance(clock.monotonic() + budget_seconds)

    def run_all(self) -> MaintenanceReport:
        """Do everything that is due, whenever it was done last; NoSpaceError, CorruptionError.

        Returns once garbage is collected, after whoever holds it.
        """
        started = clock.monotonic()
        report = MaintenanceReport(used_bytes_before=self._store.used_bytes())
        while not self._all_done(report):
            self._await_holders()
        report.used_bytes_after = self._store.used_bytes()
        report.seconds = round(clock.monotonic() - started, 3)
        report.wait_ms_max = round(self._store.writer.wait_seconds_max * 1000, 3)
        return report

    def _all_done(self, report: MaintenanceReport) -> bool:
        """Do everything that is due; false when the collection has to wait for somebody."""
        with self._lock:
            self._report = report
            self._awaited = frozenset()
            # It replaces what is under way, which does not know the newest snapshots.
            self._work = self._due(everything=True)
            self._advance(float("inf"))
            return not self._awaited

    def _await_holders(self) -> None:
        """Wait without the lock: other work continues in the background."""
        awaited = self._awaited
        while not self._store.await_holders(awaited, COLLECT_ASK_SECONDS):
            if self._stopped.is_set():
                raise BusyError("the daemon ends; the collection begins anew after its start")

    def stop(self) -> None:
        """Cancel what is under way; it starts again another time."""
        self._stopped.set()
        with self._lock:
            self._work = None

    def _advance(self, deadline: float) -> bool:
        if self._work is None:
            return False
        try:
            while clock.monotonic() < deadline:
                waiting = next(self._work)
                if waiting and deadline < float("inf"):
                    return False
        except StopIteration:
            self._work = None
            return False
        except BaseException:
            self._work = None
            raise
        return True

    def _due(self, *, everything: bool) -> Iterator[object]:
        """Everything that is due, step by step; a step yields true if it only waits."""
        repack = self._store.repack
        removed, moved = repack.removed_packs, repack.relocated_bytes
        yield from repack.check_pack_index()
        # Before anything that removes packs: objects that lost their place must not go with them.
        yield from repack.restore_pack_index()
        if not self._carried:
            yield from repack.carry()
            self._carried = True
        for volume in self._store.volumes():
            yield from self._encode(volume.id, everything)
        if len(self._store.objects.pack_index) > (0 if everything else limits.MERGE_OBJECTS):
            yield from self._merge()
        yield from self._signatures.steps()
        now = clock.monotonic()
        late = now - self._collected_at >= COLLECT_SECONDS_MIN
        if everything or late or repack.urgent:
            # Twice, if the first one finds bases that no delta should keep.
            for _ in range(2 if everything else 1):
                if repack.garbage and not self._awaited & self._store.holders():
                    self._collected_at = now
                    yield from self._collect(everything)
            repack.urgent = False
        self._report.packs_removed += repack.removed_packs - removed
        self._report.moved_bytes += repack.relocated_bytes - moved

    def _merge(self) -> Iterator[None]:
        while not self._store.repack.merge():
            yield

    def _collect(self, everything: bool) -> Iterator[object]:
        collector, repack = self._store.collector(), self._store.repack
        started, before = clock.monotonic(), self._amounts()
        self._collecting = True
        try:
            yield from self._awaiting(collector, everything)
        finally:
            self._collecting = False
        self._tell(collector, clock.monotonic() - started, before)
        if self._awaited:
            return
        found = collector.damage, repack.unremovable
        self.damage = [text for text in found if text]
        self._report.damage += self.damage
        self._report.collected += not collector.damage
        self._collected_bytes = self._store.used_bytes()
        numbers = {tables.META_COLLECTED_BYTES: self._collected_bytes}
        self._store.numbers.put(numbers, "collected")
        yield from (None for _ in repack.prune_pack_index())
        yield from self._merge()

    def _awaiting(self, collector: Collector, everything: bool) -> Iterator[object]:
        """Its steps, until it is done, or given up for holders, who are `_awaited` then."""
        wait_seconds = COLLECT_ASK_SECONDS if everything else COLLECT_WAIT_SECONDS
        self._awaited, patience = frozenset(), clock.monotonic() + wait_seconds
        for _ in collector.steps():
            if not collector.awaited:
                patience = clock.monotonic() + wait_seconds
            elif everything:
                self._store.await_holders(collector.awaited, patience - clock.monotonic())
            if clock.monotonic() >= patience:
                self._awaited = collector.awaited
                return
            yield collector.awaited

    def _amounts(self) -> dict[str, int]:
        """What a collection changes, for the log."""
        repack = self._store.repack
        return {
            "packs_removed": repack.removed_packs,
            "moved_bytes": repack.relocated_bytes,
            "used_bytes": self._store.used_bytes(),
        }

    def _tell(self, collector: Collector, seconds: float, before: dict[str, int]) -> None:
        outcome = "given_up" if self._awaited else "damage" if collector.damage else "done"
        counters.add("collections_total", result=outcome)
        changes = {name: count - before[name] for name, count in self._amounts().items()}
        fields = {"result": outcome, "seconds": round(seconds, 1), "objects": collector.marked}
        slow = outcome != "done" or seconds >= COLLECT_SLOW_SECONDS
        log.log(logging.INFO if slow else logging.DEBUG, "collection", extra=fields | changes)

    # Deltas

    def _encode(self, volume_id: int, everything: bool) -> Iterator[None]:
        """Encode the versions that snapshots have replaced since the last time, when they are
        due.
        """
        while True:
            seq, round_number = self._store.repack.progress(volume_id)
            found = self._since(volume_id, seq)
            now = clock.monotonic()
            late = now - self._encoded_at.setdefault(volume_id, now) >= DELTA_SECONDS_MAX
            full = len(found) > DELTA_SNAPSHOTS_MAX
            if len(found) < 2 or not (everything or late or full):
                return
            self._encoded_at[volume_id] = now
            yield from self._round(volume_id, found, round_number + 1)

    def _since(self, volume_id: int, seq: int) -> list[SnapshotRecord]:
        """The snapshots of the next round, and before them the last one of the round before."""
        found: list[SnapshotRecord] = []
        for record in self._store.snapshots(volume_id, start=seq):
            found.append(record)
            if len(found) > DELTA_SNAPSHOTS_MAX:
                break
        return found

    def _round(
        self, volume_id: int, records: list[SnapshotRecord], round_number: int
    ) -> Iterator[None]:
        """Compare the snapshots one by one, then encode what they have replaced."""
        successors = Successors()
        last = records[0].seq
        for before, after in zip(records, records[1:], strict=False):
            if len(successors) >= DELTA_VERSIONS_MAX:
                break
            try:
                yield from self._compare(before, after, successors)
            except (CorruptionError, NotFoundError) as error:
                # Verification and scrub report it; the versions above it stay as they are.
                self._report.damage.append(str(error))
            last = after.seq
        encoder = DeltaEncoder(self._store, round_number)
        repack = self._store.repack
        for chain in successors.chains():
            encoder.chain(chain)
            frames = encoder.frames()
            if frames:
                repack.replace(frames, None)
            yield
        record = tables.id_key(volume_id), tables.pack_u64(last) + tables.pack_u64(round_number)
        repack.replace(encoder.frames(rest=True), record)
        self._report.versions += len(successors)
        self._report.deltas += encoder.deltas
        for number in sorted(encoder.packs):
            repack.sweep(number, repack.found_here)
            yield

    def _compare(
        self, before: SnapshotRecord, after: SnapshotRecord, successors: Successors
    ) -> Iterator[None]:
        old, new = before.root, after.root
        for count, pair in enumerate(pairs(old, new, self._store.node)):
            successors.add(*pair)
            if count % limits.STORE_PAGE_RECORDS_MAX == 0:
                yield
