"""Applies retention to the stored histories, and protects what tags name.

Blocks, and runs on worker threads, one at a time: a plan is valid until it is applied. Forgetting a
snapshot removes its record only; its objects are garbage then.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diffkeeper import clock, counters, failpoint, limits
from diffkeeper.errors import ConflictError, DiffKeeperError, NotFoundError
from diffkeeper.format.ids import SnapshotId
from diffkeeper.store.store import Batch
from diffkeeper.volumes.names import shown
from diffkeeper.volumes.retention_policy import Moment, Moments, Tiers, plan, rhythm_ns
from diffkeeper.volumes.retention_tiers import format_retention

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from diffkeeper.format.records import SnapshotRecord
    from diffkeeper.store.store import Store
    from diffkeeper.volumes.volume import Volume

log = logging.getLogger(__name__)

RETENTION_RHYTHM_SECONDS_MAX = 60.0  # between two plans for one volume
RETENTION_CPU_FRACTION_MAX = 0.02  # of one core, for the plans of one volume
RETENTION_READ_MAX = 50_000  # snapshots between two plans for one volume
_HASTE_NS_MIN = 60 * 10**9
Pins = dict[int, dict[int, str]]  # volume id to number of a protected snapshot to the reason


@dataclass(slots=True)
class _Line:
    """What is remembered of one volume's stored snapshots, so that only new ones are read."""

    moments: Moments = field(default_factory=Moments)
    read: int = 0  # highest sequence number that was read
    plan_at: float = 0.0  # monotonic


class Retention:
    """Retention of all volumes of one store. `default`: tiers of volumes without the option;
    `now_ns`: the time by which snapshots age, see `history.retention_clock`.
    """

    def __init__(self, store: Store, default: Tiers, now_ns: Callable[[], int]) -> None:
        self._store = store
        self._default = default
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._lines: dict[int, _Line] = {}
        self._pins: Pins | None = None

    def tiers(self, volume: Volume) -> Tiers:
        """The tiers of a volume; empty keeps everything."""
        own = volume.options.retention
        return self._default if own is None else own

    def shown(self, volume: Volume) -> str:
        """The tiers of a volume as text of the option."""
        return format_retention(self.tiers(volume))

    def sweep(self, volumes: Iterable[Volume]) -> None:
        """Forget what is due in each volume; an error becomes its trouble, and is tried again.

        Costs next to nothing for a volume that is not due. A volume is due once in its shortest
        step, at least once a minute, and less often where its history is so long that planning
        takes more than its share of a core.
        """
        present = list(volumes)
        for volume in present:
            line = self._lines.get(volume.state.record.id)
            waits = line is not None and clock.monotonic() < line.plan_at
            if waits and volume.status.forgotten is not None:
                continue
            try:
                self.prune(volume, now_ns=self._now_ns())
            except (DiffKeeperError, OSError) as error:
                text = f"its history could not be thinned: {error}"
                volume.status.troubles.begin("retention", text)
                log.error("retention_failed", extra={"volume": volume.name, "error": str(error)})
            else:
                volume.status.troubles.end("retention")
        ids = {volume.state.record.id for volume in present}
        with self._lock:
            self._lines = {number: line for number, line in self._lines.items() if number in ids}

    def prune(
        self, volume: Volume, *, dry_run: bool = False, now_ns: int | None = None
    ) -> tuple[list[int], int]:
        """Forget what the tiers do not keep: (their numbers, how many stay); `dry_run` changes
        nothing.

        Uses the wall clock by default, including unobserved time. NoSpaceError, CorruptionError.
        """
        at_ns = clock.now_ns() if now_ns is None else now_ns
        with self._lock:
            line = self._lines.setdefault(volume.state.record.id, _Line())
            rhythm = rhythm_ns(self.tiers(volume), round(RETENTION_RHYTHM_SECONDS_MAX * 1e9))
            cpu = clock.thread_cpu()
            try:
                left = self._count(volume)
                found = self._thin(volume, line, at_ns, dry_run) if self.tiers(volume) else []
            finally:
                rest = (clock.thread_cpu() - cpu) / RETENTION_CPU_FRACTION_MAX
                line.plan_at = clock.monotonic() + max(rhythm / 1e9, rest)
        if found and not dry_run:
            fields = {"volume": volume.name, "forgotten": len(found), "left": left - len(found)}
            log.debug("thinned", extra=fields)
        return found, left - len(found)

    def hasten(self, volume: Volume) -> tuple[int, int]:
        """Forget early what the tiers would forget next: (how many, their bytes).

        As if time had passed: the least time, by doubling, after which some are due. Nothing of a
        volume that keeps all. NoSpaceError, CorruptionError.
        """
        tiers = self.tiers(volume)
        if not tiers:
            return 0, 0
        with self._lock:
            line = self._lines.setdefault(volume.state.record.id, _Line())
            self._count(volume)
            while not self._read(volume, line):
                pass
            before = volume.state.stored.bytes
            ahead_ns, found = _HASTE_NS_MIN, list[int]()
            while not found and ahead_ns < 2 * tiers[-1].until_ns + 2 * _HASTE_NS_MIN:
                found = self._plan(volume, line, self._now_ns() + ahead_ns)
                ahead_ns *= 2
            self._forget(volume, line, found)
        if found:
            fields = {"volume": volume.name, "forgotten": len(found), "early": True}
            log.info("thinned", extra=fields)
        return len(found), max(1, before - volume.state.stored.bytes)

    def _thin(self, volume: Volume, line: _Line, at_ns: int, dry_run: bool) -> list[int]:
        """Numbers that were forgotten, or would be. A long history is thinned in parts, as it is
        read.
        """
        found: list[int] = []
        whole = False
        while not whole:
            whole = self._read(volume, line)
            if dry_run and not whole:
                continue
            some = self._plan(volume, line, at_ns)
            if not dry_run:
                self._forget(volume, line, some)
            found += some
        return found

    def _plan(self, volume: Volume, line: _Line, at_ns: int) -> list[int]:
        record = volume.state.record
        keep = set(self._pinned().get(record.id, ()))
        if record.verified_seq is not None:
            keep.add(record.verified_seq)  # the next verification compares with this one
        return plan(line.moments, self.tiers(volume), at_ns, keep)

    def _read(self, volume: Volume, line: _Line) -> bool:
        """Read more snapshots; false where there may be more."""
        count = 0
        for each in self._store.snapshots(volume.state.record.id, start=line.read + 1):
            line.moments.append(Moment(each.seq, each.time_ns, each.consistency == "crash"))
            line.read, count = each.seq, count + 1
            if count == RETENTION_READ_MAX:
                return False
        return True

    def _count(self, volume: Volume) -> int:
        """Number of stored snapshots; counted by reading all of them the first time."""
        record = volume.state.record
        given = record.next_seq - 1
        forgotten = volume.status.forgotten
        if forgotten is None:
            forgotten = given - self._store.snapshot_count(record.id, stop=given + 1)
            volume.status.count_forgotten(forgotten)
        return given - forgotten

    def _forget(self, volume: Volume, line: _Line, seqs: Sequence[int]) -> None:
        number = volume.state.record.id
        for start in range(0, len(seqs), limits.FORGET_BATCH_MAX):
            some = seqs[start : start + limits.FORGET_BATCH_MAX]
            failpoint.hit("forget.before_commit")
            with volume.state.stored.forgetting(some):
                self._store.commit(Batch(snapshots_del={SnapshotId(number, seq) for seq in some}))
            failpoint.hit("forget.after_commit")
            counters.add("forgotten_total", len(some), volume=volume.name)
            gone = set(some)
            line.moments.drop(gone)
            volume.status.count_forgotten((volume.status.forgotten or 0) + len(gone))

    def forget(self, volume: Volume, seqs: Sequence[int]) -> None:
        """Forget these snapshots. ConflictError, and nothing changes, if one is protected."""
        with self._lock:
            line = self._lines.setdefault(volume.state.record.id, _Line())
            self._count(volume)
            why = self._kept(volume)
            refused = [f"{volume.name}@{seq} is {why[seq]}" for seq in seqs if seq in why]
            if refused:
                raise ConflictError(f"{'; '.join(refused[:10])}: nothing was forgotten")
            found = [seq for seq in sorted(set(seqs)) if self._stored(volume, seq)]
            self._forget(volume, line, found)
        log.info("forgotten", extra={"volume": volume.name, "snapshots": len(found)})

    def _stored(self, volume: Volume, seq: int) -> bool:
        """Whether the snapshot is still stored: another request may have forgotten it."""
        number = volume.state.record.id
        return self._store.snapshot_count(number, seq, seq + 1) > 0

    def _kept(self, volume: Volume) -> dict[int, str]:
        """Protected sequence numbers, with the reason."""
        record = volume.state.record
        why = dict(self._pinned().get(record.id, {}))
        newest = self._store.newest_crash(record.id)
        if newest is not None:
            why[newest.seq] = "the newest crash-consistent snapshot, which a lost volume comes from"
        head = volume.state.head
        if head is not None:
            why[head.seq] = "the newest snapshot"
        return why

    # Tags

    def tag(self, volume: Volume, snapshot: SnapshotRecord, name: str) -> None:
        """Give a snapshot a tag; the same tag again is no error.

        ConflictError for a tag of another snapshot, or one too many; NotFoundError for a snapshot
        that was forgotten meanwhile.
        """
        number = volume.state.record.id
        with self._lock:
            present = volume.status.tags.get(name)
            if present == snapshot.seq:
                return
            if present is not None:
                raise ConflictError(
                    f"the tag {name} of {volume.name} names snapshot {present}; take it away"
                    f" first: diffkeeper untag {volume.name} {name}"
                )
            if len(volume.status.tags) >= limits.TAGS_MAX:
                raise ConflictError(
                    f"volume {volume.name} has {len(volume.status.tags)} tags already"
                )
            self._store.commit(Batch(tags_put={(number, name): snapshot.seq}))
            self._retagged(volume)

    @contextlib.contextmanager
    def tagging(self, volume: Volume) -> Iterator[None]:
        """Inside the block tags may be committed: no snapshots are forgotten meanwhile."""
        with self._lock:
            try:
                yield
            finally:
                self._retagged(volume)

    def _retagged(self, volume: Volume) -> None:
        """Update what depends on tags, which may have changed; the lock is held."""
        volume.status.retag(self._store.tags(volume.state.record.id))
        self._pins = None

    def untag(self, volume: Volume, name: str) -> int:
        """Remove a tag; returns the number of its snapshot. NotFoundError if there is no such
        tag.
        """
        number = volume.state.record.id
        with self._lock:
            seq = volume.status.tags.get(name)
            if seq is None:
                raise NotFoundError(f"volume {volume.name} has no tag {shown(name)}")
            self._store.commit(Batch(tags_del={(number, name)}))
            self._retagged(volume)
            return seq

    def purged(self) -> None:
        """Update protection after a volume and its tags were purged: what they protected in other
        volumes is free.
        """
        with self._lock:
            self._pins = None

    def _pinned(self) -> Pins:
        """Everything that tags protect: tagged snapshots, and those of other volumes at the same
        instant.
        """
        if self._pins is None:
            pins: Pins = {}
            for number, name, seq in self._store.all_tags():
                for member, at in self._instant(number, seq).items():
                    pins.setdefault(member, {})[at] = f"of the instant that a tag keeps: {name}"
                pins.setdefault(number, {})[seq] = f"tagged {name}"
            self._pins = pins
        return self._pins

    def _instant(self, number: int, seq: int) -> dict[int, int]:
        """Volume id to sequence number of all snapshots of one snapshot's instant."""
        try:
            group = self._store.snapshot(number, seq).group
        except DiffKeeperError:
            return {}  # damaged or gone: only the snapshot itself is protected
        return {int(member): at for member, at in group.items()}
