"""Scrubbing: every stored object is read again; what is damaged is healed from a good copy.

1. Every pack is read from disk, and each object that is found there compared with its digest.
2. All snapshots are walked: which files need what is damaged or missing?
3. Good copies are searched for, by digest: in other packs, in live directories. They are stored
   again.
4. What is left is lost; its snapshots and files are named.

It works in short steps, each at most one short transaction. Live directories are only read.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING

from diffkeeper import clock, counters, limits
from diffkeeper.errors import BusyError, CorruptionError, NotFoundError
from diffkeeper.format.ids import SnapshotId
from diffkeeper.integrity.missing import Loss, MissingObjects
from diffkeeper.integrity.salvage import Salvage
from diffkeeper.messages.integrity import LostFile, ScrubProgress, ScrubReport, ScrubStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from diffkeeper.format.ids import ObjectId, SnapshotId
    from diffkeeper.integrity.salvage import SalvageSource
    from diffkeeper.snapshot.chunker import Chunker
    from diffkeeper.store.store import Store

    Lost = Callable[[set[bytes]], set[bytes]]  # returns those of some digests that cannot be read

log = logging.getLogger(__name__)

SCRUB_SECONDS = 7 * 86_400.0  # from the end of one pass to the next
SCRUB_FIRST_SECONDS = 600.0  # from the start of the daemon to the first pass
SCRUB_SUSPECT_SECONDS = 600.0  # from the end of a pass to one that a failed capture asks for
SCRUB_ROUNDS_MAX = 8  # of healing in one pass
SCRUB_LOSSES_MAX = 1_000  # paths that are named, for a snapshot and in a report


class Scrubber:
    """Scrubs one store, by command and in the background; `live` returns the live directories."""

    def __init__(
        self, store: Store, reader: Chunker, live: Callable[[], list[SalvageSource]]
    ) -> None:
        self._store = store
        self._reader = reader
        self._live = live
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._work: Iterator[None] | None = None
        # What an older release lost is healed if possible, once maintenance is done.
        self._due_at = clock.monotonic() + (
            SCRUB_FIRST_SECONDS if store.pack_index_checked() else 0
        )
        self._urgent = False  # the pass under way is to heal what makes captures of a volume fail
        self._suspect_at = clock.monotonic()  # from when on a suspicion starts a pass
        self._running = ScrubReport()
        self._total = 0
        self.last: ScrubReport | None = None
        self._lost_text = ""

    def shown(self) -> ScrubStatus:
        """The pass under way and the last one, for Status and the API."""
        under_way = None
        if self._work is not None:
            found = self._running
            under_way = ScrubProgress(found.packs, self._total, found.objects)
        return ScrubStatus(under_way, self.last)

    @property
    def trouble(self) -> str:
        """What the last pass found lost, while one of the affected snapshots exists."""
        return self._lost_text if self._store.damaged else ""

    def run_slice(self) -> bool:
        """One step of the pass that is due, if any; whether a caller waits for its end."""
        with self._lock:
            if self._work is None and self._is_due():
                self._urgent = self._store.repack.suspected
                self._work = self._pass()
            self._step()
            return self._urgent and self._work is not None

    def _is_due(self) -> bool:
        now = clock.monotonic()
        return now >= self._due_at or (self._store.repack.suspected and now >= self._suspect_at)

    def run_all(self) -> ScrubReport:
        """A whole pass from the start, in place of one under way.

        BusyError when it ends early: the daemon ends, or a step of it failed in the background.
        """
        with self._lock:
            before, self._work = self.last, self._pass()
        while self._advance():
            pass
        if self.last is None or self.last is before:
            raise BusyError("the scrub ended early: diffkeeper doctor says why; try again")
        return self.last

    def _advance(self) -> bool:
        """One step; false when no pass is under way. One that replaced ours began even later."""
        with self._lock:
            if self._stopped.is_set():
                raise BusyError("the daemon ends; the scrub begins anew after its start")
            self._step()
            return self._work is not None

    def stop(self) -> None:
        """Cancel the pass under way, for good; waits for its step under way."""
        self._stopped.set()  # before the lock, which `run_all` gives up only for a moment
        with self._lock:
            self._work = None

    def _step(self) -> None:
        try:
            if self._work is not None:
                next(self._work)
        except StopIteration:
            self._work = None
        except BaseException:
            self._work = None
            self._due_at = clock.monotonic() + limits.MAINTENANCE_RETRY_SECONDS
            raise

    # One pass

    def _pass(self) -> Iterator[None]:
        started, began = clock.monotonic(), clock.rfc3339(clock.now_ns())
        self._store.repack.suspected = False
        report = self._running = ScrubReport(started=began)
        damaged: dict[bytes, str] = {}
        unreadable: set[int] = set()
        upto = self._store.objects.next_pack
        self._total = yield from self._count_packs(upto)
        for number in self._numbers(upto):
            try:
                self._count(report, self._store.healer.check(number), damaged)
            except CorruptionError:
                unreadable.add(number)
            report.packs += 1
            yield
        for found in self._store.healer.singles():
            self._count(report, found, damaged)
            yield
        losses = yield from self._losses(damaged, unreadable)
        needed = _digests(losses)  # damaged objects that no snapshot needs are garbage
        # A healed node shows what it refers to, and makes the deltas above it readable.
        for _ in range(SCRUB_ROUNDS_MAX if losses else 0):
            lost = self._lost(damaged, unreadable)
            if not (yield from self._heal(damaged.keys() | _digests(losses), lost, losses)):
                break
            damaged = {d: text for d, text in damaged.items() if not self._is_whole(d)}
            losses = yield from self._losses(damaged, unreadable)
            needed |= _digests(losses)
        report.damaged_objects = len(needed)
        self._conclude(report, losses)
        if unreadable and not losses:
            for number in unreadable:
                self._store.healer.drop(number)
        report.seconds = round(clock.monotonic() - started, 3)
        self._due_at = clock.monotonic() + SCRUB_SECONDS
        self._suspect_at = clock.monotonic() + SCRUB_SUSPECT_SECONDS

    def _count(
        self,
        report: ScrubReport,
        found: tuple[int, int, dict[bytes, str]],
        damaged: dict[bytes, str],
    ) -> None:
        objects, size, bad = found
        report.objects += objects
        report.bytes += size
        damaged.update(bad)

    def _numbers(self, upto: int) -> Iterator[int]:
        """Numbers of the packs below `upto`, in pages; packs that are stored meanwhile are left
        out.
        """
        at = 0
        while page := [each for each in self._store.repack.packs(at) if each < upto]:
            yield from page
            at = page[-1] + 1

    def _count_packs(self, upto: int) -> Generator[None, None, int]:
        count = 0
        for count, _ in enumerate(self._numbers(upto), 1):
            if count % limits.STORE_PAGE_RECORDS_MAX == 0:
                yield
        return count

    def _losses(
        self, damaged: dict[bytes, str], unreadable: set[int]
    ) -> Generator[None, None, dict[SnapshotId, list[Loss]]]:
        """Generator that returns what each snapshot lacks."""
        found: dict[SnapshotId, list[Loss]] = {}

        walk = MissingObjects(self._store, self._lost(damaged, unreadable))
        for volume in self._store.volumes():
            for record in self._store.snapshots(volume.id):
                missed: list[Loss] = []
                for loss in walk.of(record.root):
                    if loss is None:
                        yield
                    elif len(missed) < SCRUB_LOSSES_MAX:
                        missed.append(loss)
                if missed and self._is_there(record.id):
                    found[record.id] = missed
        return found

    def _lost(self, damaged: dict[bytes, str], unreadable: set[int]) -> Lost:
        def lost(digests: set[bytes]) -> set[bytes]:
            bad = digests.intersection(damaged)
            return bad | self._store.healer.absent(digests - bad, unreadable)

        return lost

    def _is_there(self, each: SnapshotId) -> bool:
        """Whether the snapshot is still stored: a forgotten one lacks nothing."""
        try:
            self._store.snapshot(*each)
        except NotFoundError:
            return False
        return True

    def _is_whole(self, digest: bytes) -> bool:
        try:
            self._store.objects.plain(self._store.objects.identify(digest))
        except (CorruptionError, NotFoundError):
            return False
        return True

    # Healing

    def _heal(
        self, wanted: set[bytes], lost: Lost, losses: dict[SnapshotId, list[Loss]]
    ) -> Generator[None, None, bool]:
        """Store good copies of everything that can be found; generator that returns whether any
        was.

        What is below a lost node is not in `wanted`: from live directories everything is taken that
        `lost` reports as missing.
        """
        if not wanted:
            return False
        healed = _Healed(self._store)
        objects = self._store.objects
        for digest in wanted:
            # Caches may have a good copy, which would hide that the stored one is damaged.
            with contextlib.suppress(CorruptionError, NotFoundError):
                each = objects.identify(digest)
                healed.add(each, objects.plain(each))
        healer = self._store.healer
        for number in self._numbers(objects.next_pack):
            for each, plain in healer.copies(wanted, number):
                healed.add(each, plain)
            yield
        for each, plain in healer.single_copies(wanted):
            healed.add(each, plain)
        yield
        paths = {loss.path for missed in losses.values() for loss in missed}
        for live in self._live():
            if wanted <= healed.digests:
                break
            rebuild = Salvage(self._store, self._reader, live, lost, healed.add)
            yield from _as_far_as_possible(rebuild.files(paths))
            if not wanted <= healed.digests:
                yield from _as_far_as_possible(rebuild.everything())
        healed.flush()
        return bool(healed.digests)

    def _conclude(self, report: ScrubReport, losses: dict[SnapshotId, list[Loss]]) -> None:
        names = {volume.id: volume.name for volume in self._store.volumes()}
        # A volume may have been purged, or a snapshot forgotten, since the walk.
        losses = {k: v for k, v in losses.items() if k.volume_id in names and self._is_there(k)}
        report.lost_objects, report.lost_snapshots = len(_digests(losses)), len(losses)
        report.healed_objects = report.damaged_objects - report.lost_objects
        for (volume_id, seq), missed in losses.items():
            for path in dict.fromkeys(loss.path for loss in missed):
                if len(report.lost) < SCRUB_LOSSES_MAX:
                    shown = path.decode("utf-8", "backslashreplace")
                    report.lost.append(LostFile(names[volume_id], seq, shown))
        self._store.damaged = {
            key: tuple(dict.fromkeys(loss.path for loss in missed))
            for key, missed in losses.items()
        }
        self.last = report
        self._tell(report)

    def _tell(self, report: ScrubReport) -> None:
        outcome = "lost" if report.lost_objects else "healed" if report.healed_objects else "ok"
        counters.add("scrubs_total", result=outcome)
        fields = {
            "objects": report.objects,
            "damaged": report.damaged_objects,
            "healed": report.healed_objects,
            "lost": report.lost_objects,
            "snapshots": report.lost_snapshots,
        }
        if report.damaged_objects:
            log.error("scrub_found_damage", extra=fields)
        else:
            log.info("scrubbed", extra=fields)
        self._lost_text = ""
        if report.lost_objects:
            self._lost_text = (
                f"{report.lost_objects} stored objects are damaged beyond healing;"
                f" {report.lost_snapshots} snapshots lose files: diffkeeper scrub names them"
            )


def _digests(losses: dict[SnapshotId, list[Loss]]) -> set[bytes]:
    return {loss.id.digest for each in losses.values() for loss in each}


class _Healed:
    """Good copies on their way into the store, a bounded number of bytes at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[ObjectId, bytes] = {}
        self._bytes = 0
        self.digests: set[bytes] = set()

    def add(self, each: ObjectId, plain: bytes) -> None:
        """Add a copy; only the first one of each object."""
        if each.digest in self.digests:
            return
        self.digests.add(each.digest)
        self._waiting[each] = plain
        self._bytes += len(plain)
        if self._bytes >= limits.BATCH_BYTES_MAX:
            self.flush()

    def flush(self) -> None:
        """Store what is collected."""
        if self._waiting:
            self._store.healer.heal(self._waiting)
        self._waiting, self._bytes = {}, 0


def _as_far_as_possible(steps: Iterator[None]) -> Iterator[None]:
    """Run the steps; a live directory may disappear meanwhile, what was found until then counts."""
    try:
        yield from steps
    except (OSError, CorruptionError):
        return
