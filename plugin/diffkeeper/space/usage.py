"""What each volume takes of the store, alone and shared, counted by walking all snapshots.

Above a number of objects a sample of them is counted, chosen by digest, so that memory is bounded
and every volume's sample has the same objects. The walk works in slices with pauses.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blake3 import blake3

from diffkeeper import clock, limits
from diffkeeper.errors import CorruptionError, NotFoundError
from diffkeeper.messages.store import UsageCount, UsageFigures
from diffkeeper.replay.object_source import StoreObjects
from diffkeeper.space.reachable import Walk

if TYPE_CHECKING:
    from diffkeeper.format.records import SnapshotRecord, VolumeRecord
    from diffkeeper.store.store import Store

ACCOUNT_SAMPLE_MAX = 65_536
ACCOUNT_WINDOW_MAX = 32_768
ACCOUNT_SLICE_SECONDS = 0.02
GROWTH_SECONDS_MIN = 60.0

_DAY_NS = 86_400 * 10**9
_KEY_BYTES = 8


@dataclass(slots=True)
class Account:
    """Figures of one volume, or of all together. Bytes; plain ones without Merkle nodes."""

    logical_bytes: int = 0  # of all files in the newest snapshot
    history_bytes: int = 0  # the same, summed over all snapshots
    snapshots: int = 0
    unique_bytes: int = 0  # plain bytes that no other volume has
    shared_bytes: int = 0  # plain bytes that another volume has, too
    stored_bytes: int = 0  # encoded, of all that it reaches
    unique_stored_bytes: int = 0  # encoded, of what only it reaches: freed by its removal
    growth_bytes_per_day: int | None = None  # None for less than sixty seconds of history

    @property
    def ratio(self) -> float | None:
        """Size of all its snapshots as full copies, over what is stored."""
        return round(self.history_bytes / self.stored_bytes, 2) if self.stored_bytes else None

    def figures(self) -> UsageFigures:
        """As shown."""
        return UsageFigures(
            logical_bytes=self.logical_bytes,
            history_bytes=self.history_bytes,
            snapshots=self.snapshots,
            unique_bytes=self.unique_bytes,
            shared_bytes=self.shared_bytes,
            stored_bytes=self.stored_bytes,
            unique_stored_bytes=self.unique_stored_bytes,
            ratio=self.ratio,
            growth_bytes_per_day=self.growth_bytes_per_day,
        )


@dataclass(slots=True)
class Accounts:
    """One count of everything. Volumes by id, including removed ones; `one_in`: 1 is exact.

    `trash`: encoded bytes that each removed volume gives back once those removed before it are
    gone.
    """

    time_ns: int
    seconds: float
    one_in: int
    unreadable: int  # snapshots that could not be walked to the end
    total: Account
    volumes: dict[int, Account]
    trash: dict[int, int]

    def count(self) -> UsageCount:
        """When and how it was counted."""
        return UsageCount(
            time=clock.rfc3339(self.time_ns),
            age_seconds=round(max(0, clock.now_ns() - self.time_ns) / 1e9, 3),
            seconds=round(self.seconds, 3),
            sampled_one_in=self.one_in,
            unreadable_snapshots=self.unreadable,
        )


class Sample:
    """A sample of objects with their owners; halved whenever it is full, by a bit of the digest."""

    def __init__(self, entries_max: int = ACCOUNT_SAMPLE_MAX) -> None:
        self._entries_max = entries_max
        self._mask = 0
        self._owners: dict[frozenset[int], frozenset[int]] = {}
        self.entries: dict[int, tuple[frozenset[int], int, int]] = {}

    @property
    def one_in(self) -> int:
        """Number of objects that each entry stands for."""
        return self._mask + 1

    def wants(self, digest: bytes, owner: int) -> bool:
        """Whether this object would be new in the sample; records the owner of a known one."""
        key = int.from_bytes(digest[:_KEY_BYTES], "little")
        if key & self._mask:
            return False
        known = self.entries.get(key)
        if known is None:
            return True
        owners, plain, stored = known
        if owner not in owners:
            self.entries[key] = self._shared(owners | {owner}), plain, stored
        return False

    def add(self, digest: bytes, owner: int, plain_bytes: int, stored_bytes: int) -> None:
        """Add an object that it wants."""
        key = int.from_bytes(digest[:_KEY_BYTES], "little")
        self.entries[key] = self._shared(frozenset({owner})), plain_bytes, stored_bytes
        while len(self.entries) > self._entries_max:
            self._mask = 2 * self._mask + 1
            self.entries = {k: v for k, v in self.entries.items() if not k & self._mask}

    def _shared(self, owners: frozenset[int]) -> frozenset[int]:
        """One set object for all equal sets."""
        return self._owners.setdefault(owners, owners)


@dataclass(slots=True)
class _Seen:
    """Sums over the records of one volume."""

    account: Account = field(default_factory=Account)
    first: SnapshotRecord | None = None
    grown: int = 0
    since_ns: int = 0


class UsageWalk:
    """Counts one store. `refresh` blocks, and is called by one thread at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._state = b""
        self._stopped = threading.Event()
        self._slice_began = 0.0
        self.in_haste = False  # a caller waits for the figures
        self.latest: Accounts | None = None

    def stop(self) -> None:
        """Cancel a count under way."""
        self._stopped.set()

    def refresh(self) -> Accounts | None:
        """Present figures, from memory if nothing changed; None when cancelled."""
        began = self._slice_began = clock.monotonic()
        volumes = self._store.volumes()
        seen, state = self._records(volumes)
        if self.latest is not None and state == self._state:
            for number, each in seen.items():
                self.latest.volumes[number].growth_bytes_per_day = each.account.growth_bytes_per_day
            self.latest.time_ns = clock.now_ns()
            return self.latest
        sample, unreadable = Sample(), 0
        for volume in volumes:
            unreadable += self._volume(volume, sample)
        if self._stopped.is_set():
            return None
        accounts = {number: each.account for number, each in seen.items()}
        total = _summed(sample, accounts)
        seconds = clock.monotonic() - began
        self.latest = Accounts(
            clock.now_ns(),
            seconds,
            sample.one_in,
            unreadable,
            total,
            accounts,
            _trash(sample, volumes),
        )
        self._state = state
        return self.latest

    def _records(self, volumes: list[VolumeRecord]) -> tuple[dict[int, _Seen], bytes]:
        """Sums over the records by volume, and a digest that changes when a snapshot comes or goes.

        Renames do not change it.
        """
        state = blake3()
        found: dict[int, _Seen] = {}
        now = clock.now_ns()
        for volume in volumes:
            seen = found[volume.id] = _Seen()
            state.update(b"%d %d;" % (volume.id, volume.removed_ns or 0))
            for record in self._store.snapshots(volume.id):
                self._pause()
                _count_snapshot(seen, record, now)
                state.update(b"%d %s," % (record.seq, record.root.hex().encode()))
            seconds = (now - seen.since_ns) / 1e9
            if seen.first is not None and seconds >= GROWTH_SECONDS_MIN:
                seen.account.growth_bytes_per_day = round(seen.grown * 86_400 / seconds)
        return found, state.digest()

    def _volume(self, volume: VolumeRecord, sample: Sample) -> int:
        """Add everything that the volume reaches; returns how many snapshots could not be
        walked.
        """
        unreadable = 0
        walk = Walk(StoreObjects(self._store).nodes, ACCOUNT_WINDOW_MAX)
        for record in self._store.snapshots(volume.id):
            try:
                self._snapshot(volume.id, record, walk, sample)
            except NotFoundError:
                unreadable += self._is_there(record)  # else it was forgotten meanwhile
            except CorruptionError:
                unreadable += 1
            if self._stopped.is_set():
                break
        return unreadable

    def _is_there(self, record: SnapshotRecord) -> bool:
        try:
            self._store.snapshot(record.volume_id, record.seq)
        except NotFoundError:
            return False
        return True

    def _snapshot(self, owner: int, record: SnapshotRecord, walk: Walk, sample: Sample) -> None:
        for found in walk.objects(record.root):
            self._pause()
            if self._stopped.is_set():
                return
            if sample.wants(found.digest, owner):
                stored_bytes = self._store.stored_bytes(found.digest)
                plain_bytes = 0 if found.is_node else found.length
                sample.add(found.digest, owner, plain_bytes, stored_bytes)

    def _pause(self) -> None:
        """Pause for half of the time, or for nearly all of it while no caller waits."""
        worked = clock.monotonic() - self._slice_began
        if worked >= ACCOUNT_SLICE_SECONDS:
            rest = 1.0 if self.in_haste else 1 / limits.CPU_FRACTION_MAX
            self._stopped.wait(worked * rest)
            self._slice_began = clock.monotonic()


def _count_snapshot(seen: _Seen, record: SnapshotRecord, now_ns: int) -> None:
    """Add a snapshot; what the first one stored is no growth."""
    account = seen.account
    account.snapshots += 1
    account.history_bytes += record.bytes
    account.logical_bytes = record.bytes
    if seen.first is None:
        seen.first = record
        seen.since_ns = max(record.time_ns, now_ns - _DAY_NS)
    elif record.time_ns >= now_ns - _DAY_NS:
        seen.grown += record.stored_bytes


def _trash(sample: Sample, volumes: list[VolumeRecord]) -> dict[int, int]:
    """See `Accounts.trash`. Volumes that keep their live directory are not purged for space, and
    keep what they have.
    """
    removed = {v.id: v.removed_ns for v in volumes if v.removed_ns is not None and v.clean}
    freed = dict.fromkeys(removed, 0)
    for owners, _, stored in sample.entries.values():
        if owners <= removed.keys():
            freed[max(owners, key=lambda each: (removed[each], each))] += stored * sample.one_in
    return freed


def _summed(sample: Sample, accounts: dict[int, Account]) -> Account:
    """Add the sample to the volumes' accounts; returns the total."""
    total = Account()
    for owners, plain, stored in sample.entries.values():
        plain, stored = plain * sample.one_in, stored * sample.one_in
        total.stored_bytes += stored
        for owner in owners:
            account = accounts[owner]
            account.stored_bytes += stored
            if len(owners) > 1:
                account.shared_bytes += plain
            else:
                account.unique_bytes += plain
                account.unique_stored_bytes += stored
        if len(owners) > 1:
            total.shared_bytes += plain
        else:
            total.unique_bytes += plain
            total.unique_stored_bytes += stored
    for account in accounts.values():
        total.logical_bytes += account.logical_bytes
        total.history_bytes += account.history_bytes
        total.snapshots += account.snapshots
    growth = [a.growth_bytes_per_day for a in accounts.values()]
    known = [each for each in growth if each is not None]
    total.growth_bytes_per_day = sum(known) if known else None
    return total
