"""The store: verified reads, and durable commits of whole batches.

Any thread may read; commits follow one another. A commit is one LMDB transaction, on disk when
the call returns.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from diffkeeper import failpoint
from diffkeeper.errors import (
    CorruptionError,
    FormatVersionError,
    InvalidInputError,
    NoSpaceError,
    NotFoundError,
)
from diffkeeper.format import chunk, pack
from diffkeeper.format.ids import ObjectId, ObjectKind, SnapshotId
from diffkeeper.format.records import IndexRecord, SnapshotRecord, VolumeRecord
from diffkeeper.fsio import durable
from diffkeeper.fsio.room import Levels, Room, Share
from diffkeeper.limits import STORE_MAP_BYTES_MAX, STORE_MAP_BYTES_MIN, STORE_PAGE_RECORDS_MAX
from diffkeeper.store import lock, tables
from diffkeeper.store.applying import apply
from diffkeeper.store.batch import Batch
from diffkeeper.store.compaction import Compaction
from diffkeeper.store.environment import Environment
from diffkeeper.store.gc import Collector
from diffkeeper.store.heal import Healer
from diffkeeper.store.holders import Holders
from diffkeeper.store.meta import Meta
from diffkeeper.store.objects import Objects, Packed, check_key, packed
from diffkeeper.store.repack import Repack
from diffkeeper.store.upgrade import upgrade
from diffkeeper.store.writer import Made, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from diffkeeper.store.transaction import Transaction

__all__ = ["Batch", "Store"]

RECENT_OBJECTS_MAX = 65_536


class Store:
    """An open store; `Store.open` makes one.

    room: its bounds; damaged: see below. `objects`, `writer`, `repack`, `healer` and
    `numbers` are for maintenance, scrubs and records of other modules.
    """

    def __init__(self, environment: Environment, lock_fd: int, room: Room) -> None:
        self._environment = environment
        self._lock_fd = lock_fd
        self.room = room
        self._id_lock = threading.Lock()
        self._next_id = 1
        self.objects = Objects(environment)
        self.writer = Writer(environment, self.objects)
        self.repack = Repack(environment, self.objects, self.writer)
        self.healer = Healer(environment, self.objects, self.writer)
        self.numbers = Meta(environment, self.writer)
        # Snapshots to paths that the last scrub found lost, of stored snapshots; replaced as a
        # whole.
        self.damaged: dict[SnapshotId, tuple[bytes, ...]] = {}
        self._flushed = 0  # batches of objects that nothing refers to yet
        self._holders = Holders()
        self._compaction = Compaction(environment, self.writer)

    @classmethod
    def open(
        cls,
        path: str,
        *,
        share: Share = Share(),  # noqa: B008  # it is frozen
        reserve_bytes: int | None = None,
        map_bytes: int | None = None,
        locked: Callable[[], None] = lambda: None,
    ) -> Self:
        """Open the store in the directory `path`, or create it there.

        History takes at most a `share` of its file system. `reserve_bytes` of it stay free for live
        data and records (default: in proportion to the disk and to live data); `map_bytes` is the
        initial size of LMDB's map (default: that of the file system). `locked` is called once the
        lock is held, before anything is read. StoreLockedError, FormatVersionError,
        CorruptionError, NoSpaceError.
        """
        try:
            durable.make_directory(path, 0o700)
        except OSError as error:
            raise InvalidInputError(f"no store can be made at {path}: {error}") from error
        room = Room.at(path, share, reserve_bytes)
        if map_bytes is None:
            map_bytes = min(max(room.total_bytes, STORE_MAP_BYTES_MIN), STORE_MAP_BYTES_MAX)
        lock_fd = lock.acquire(path)
        try:
            locked()
            lock.refuse_lost_data(path, lock_fd)
            environment = Environment(path, tables.TABLES, map_bytes)
            try:
                store = cls(environment, lock_fd, room)
                store._load()
                environment.keep_ballast()
                durable.sync_directory(path)
                lock.mark(path, lock_fd)
            except BaseException:
                environment.close()
                raise
        except BaseException:
            os.close(lock_fd)
            raise
        return store

    def close(self) -> None:
        """Wait for running calls, close, and release the lock; later calls raise BusyError."""
        with self.writer.turn():
            self._environment.close()
            if self._lock_fd >= 0:
                os.close(self._lock_fd)
                self._lock_fd = -1

    def _load(self) -> None:
        """Check the format, or write it into a new store; check a file that was cut."""
        with self._environment.read() as txn:
            version = txn.number(tables.META, tables.META_FORMAT)
            stored = sum(txn.pages(table) for table in tables.TABLES)
        if version is None:
            if stored:
                raise CorruptionError(f"{self._environment.data_path} has no format version")
            with self._environment.write() as txn:
                txn.put(tables.META, tables.META_FORMAT, tables.pack_u64(tables.FORMAT_VERSION))
                txn.put(tables.META, tables.META_NEXT_VOLUME_ID, tables.pack_u64(1))
                txn.put(tables.META, tables.META_PLACES_CHECKED, tables.pack_u64(1))
        elif version > tables.FORMAT_VERSION:
            raise FormatVersionError(
                f"{self._environment.path} has format version {version};"
                f" this release reads up to {tables.FORMAT_VERSION}"
            )
        elif version < tables.FORMAT_VERSION:
            with self._environment.write() as txn:
                upgrade(txn)
        with self._environment.read() as txn:
            self._next_id = txn.number(tables.META, tables.META_NEXT_VOLUME_ID) or 1
        self.objects.load()
        if self._environment.was_cut:
            self._read_everything()

    def _read_everything(self) -> None:
        """Read every item, so that a missing page is found at once; CorruptionError."""
        for table in tables.TABLES:
            for key, value in self._items(table, b"", tables.END, count=16):
                if table is tables.PACKS:
                    directory = pack.PackDirectory(value)
                    for each in directory.ids():
                        self.objects.plain(each)
                for kind, singles in tables.SINGLES.items():
                    if table is singles:
                        self.objects.plain(ObjectId(kind, key))

    # Objects

    def chunk(self, digest: bytes) -> bytes:
        """Plain content of a chunk, checked against its digest.

        NotFoundError when it is absent, CorruptionError when its content has another digest.
        """
        return self.objects.plain(ObjectId.chunk(digest))

    def node(self, digest: bytes) -> bytes:
        """Plain node, checked against its digest, from the cache if it was used lately.

        NotFoundError when it is absent, CorruptionError when its content has another digest.
        """
        return self.objects.plain(ObjectId.node(digest))

    def stored(self, wanted: ObjectId) -> bytes:
        """The object in an encoding of its own, see `format.chunk.encode`.

        NotFoundError when there is none, CorruptionError when it is damaged.
        """
        return self.objects.stored(wanted)

    def stored_bytes(self, digest: bytes) -> int:
        """Bytes that an object takes in the store, its share of a frame; NotFoundError."""
        return self.objects.stored_bytes(digest)

    def missing(self, digests: Iterable[bytes]) -> set[bytes]:
        """Digests of chunks that are not stored; HOLE never is, and never misses."""
        absent = self.objects.absent(digests)
        absent.discard(chunk.HOLE)
        return absent

    def unknown(self, digests: Iterable[bytes]) -> set[bytes]:
        """Digests that no stored object has, neither a chunk nor a node."""
        return self.objects.absent(digests)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Inside the block, objects that the store said exist stay, until a commit refers to them.

        Without it, an object that no snapshot has may be collected between the two.
        """
        flushed = self._flushed
        with self._holders.holding():
            try:
                yield
            except BaseException:
                # What it stored early has no snapshot now, and may never get one.
                if self._flushed != flushed:
                    self.repack.garbage = True
                raise

    def collector(self) -> Collector:
        """A garbage collection to be run; one at a time, by the thread of maintenance."""
        return Collector(self._environment, self.objects, self.writer, self.repack, self.holders)

    def compact(self) -> tuple[int, int]:
        """As `Compaction.run`: give free pages back; (bytes of the file before, after)."""
        return self._compaction.run(self.used_bytes)

    def give_back(self) -> int:
        """As `Compaction.give_back`: make holes of free room; bytes that the disk got."""
        return self._compaction.give_back()

    def keep_ballast(self) -> None:
        """Make sure that a full disk can remove something, see `Environment.keep_ballast`."""
        with self.writer.turn(maintenance=True):
            self._environment.keep_ballast()

    def holders(self) -> frozenset[object]:
        """Callers that are inside `holding` now."""
        return self._holders.now()

    def await_holders(self, awaited: frozenset[object], seconds: float) -> bool:
        """Wait until none of them is inside `holding` any more; false when the time is over."""
        return self._holders.wait(awaited, seconds)

    # Records

    def volumes(self) -> list[VolumeRecord]:
        """Every volume by id, including removed ones."""
        end = tables.id_key(tables.ID_MAX) + b"\0"
        return [VolumeRecord.decode(raw) for _, raw in self._items(tables.VOLUMES, b"\0", end)]

    def volume_id(self, name: str) -> int | None:
        """Id of the volume of this name, or None."""
        with self._environment.read() as txn:
            return txn.number(tables.NAMES, name.encode())

    def reserve_ids(self, last: int) -> None:
        """Never return an id up to `last` from `next_volume_id`."""
        with self._id_lock:
            self._next_id = max(self._next_id, last + 1)

    def next_volume_id(self) -> int:
        """An id that no volume has or had, and that no other call returns."""
        with self._id_lock:
            given, self._next_id = self._next_id, self._next_id + 1
            return given

    def snapshot(self, volume_id: int, seq: int) -> SnapshotRecord:
        """One snapshot; NotFoundError when there is none, CorruptionError when it is damaged."""
        with self._environment.read() as txn:
            raw = txn.get(tables.SNAPSHOTS, tables.pair_key(volume_id, seq))
            if raw is None:
                raise NotFoundError(f"volume {volume_id} has no snapshot {seq}")
            encoded = bytes(raw)
        return _snapshot(tables.pair_key(volume_id, seq), encoded)

    def snapshots(
        self, volume_id: int, start: int = 0, stop: int | None = None, reverse: bool = False
    ) -> Iterator[SnapshotRecord]:
        """Snapshots with start <= seq < stop, oldest first, or newest first with `reverse`.

        Reads in pages, so that a slow consumer holds no transaction.
        """
        low, high = tables.pair_key(volume_id, start), tables.pair_end(volume_id, stop)
        for key, raw in self._items(tables.SNAPSHOTS, low, high, reverse):
            yield _snapshot(key, raw)

    def snapshot_count(self, volume_id: int, start: int = 0, stop: int | None = None) -> int:
        """How many snapshots of the volume with start <= seq < stop are stored."""
        low, high = tables.pair_key(volume_id, start), tables.pair_end(volume_id, stop)
        return sum(1 for _ in self._items(tables.SNAPSHOTS, low, high))

    def tags(self, volume_id: int) -> dict[str, int]:
        """Tag to sequence number of all tagged snapshots of the volume."""
        low = tables.id_key(volume_id)
        return {name: seq for _, name, seq in self._tags(low, tables.tags_end(volume_id))}

    def all_tags(self) -> Iterator[tuple[int, str, int]]:
        """(volume id, tag, sequence number) of every tag, by volume id."""
        return self._tags(b"", tables.END)

    def _tags(self, low: bytes, high: bytes) -> Iterator[tuple[int, str, int]]:
        for key, raw in self._items(tables.TAGS, low, high):
            seq = tables.unpack_u64(raw)
            if seq is None:
                raise CorruptionError(f"{key!r} in {tables.TAGS.name} is not a number")
            yield *tables.tag_of(key), seq

    def newest_crash(self, volume_id: int) -> SnapshotRecord | None:
        """The newest crash-consistent snapshot, or None."""
        found = self.snapshots(volume_id, reverse=True)
        return next((s for s in found if s.consistency == "crash"), None)

    def index(self, volume_id: int, ino: int) -> IndexRecord | None:
        """What the inode looked like when it was last captured, or None."""
        return self.index_many(volume_id, (ino,)).get(ino)

    def index_many(self, volume_id: int, inos: Iterable[int]) -> dict[int, IndexRecord]:
        """The records of those inodes that have one, from one transaction."""
        found: dict[int, IndexRecord] = {}
        with self._environment.read() as txn:
            for ino in inos:
                raw = txn.get(tables.INDEX, tables.pair_key(volume_id, ino))
                if raw is not None:
                    found[ino] = IndexRecord.decode(bytes(raw))
        return found

    def index_numbers(self, volume_id: int, start: int) -> list[int]:
        """Some inode numbers from `start` on that have a record, in order; empty at the end."""
        with self._environment.read() as txn:
            keys = txn.keys(tables.INDEX, tables.pair_key(volume_id, start), STORE_PAGE_RECORDS_MAX)
        pairs = map(tables.pair_of, keys)
        return [inode for volume, inode in pairs if volume == volume_id]

    def forget_signatures(self, volume_id: int, stale: dict[int, IndexRecord]) -> None:
        """Remove these records by inode number, if they are unchanged; durable."""
        self.repack.forget_signatures(
            [(tables.pair_key(volume_id, ino), record.encode()) for ino, record in stale.items()]
        )

    def _items(
        self,
        table: tables.Table,
        low: bytes,
        high: bytes,
        reverse: bool = False,
        count: int = STORE_PAGE_RECORDS_MAX,
    ) -> Iterator[tuple[bytes, bytes]]:
        """Items with low <= key < high, in transactions of `count` items each."""
        while True:
            with self._environment.read() as txn:
                page = txn.scan(table, low, high, count, reverse)
            yield from page
            if len(page) < count:
                return
            low, high = (low, page[-1][0]) if reverse else (page[-1][0] + b"\0", high)

    def pack_index_checked(self) -> bool:
        """Whether places that an older release lost are back: `Repack.restore_pack_index`."""
        with self._environment.read() as txn:
            return bool(txn.number(tables.META, tables.META_PLACES_CHECKED))

    # Figures

    def totals(self) -> dict[str, int]:
        """Counts and bytes of all objects, by the names in `tables.TOTAL_NAMES`."""
        with self._environment.read() as txn:
            return _totals(txn)

    def file_bytes(self) -> int:
        """Bytes allocated for the data file; holes take nothing."""
        return self._environment.held_bytes()

    def used_bytes(self) -> int:
        """Bytes of the pages in use; the rest of the data file is free for later commits."""
        with self._environment.read() as txn:
            pages = sum(txn.pages(table) for table in tables.TABLES)
        return pages * self._environment.page_bytes()

    def levels(self) -> Levels:
        """How full the store and its file system are."""
        return self.room.levels(self.used_bytes(), self.file_bytes())

    # Commits

    def commit(self, batch: Batch) -> None:
        """Write the batch as one durable transaction; objects that exist are skipped.

        NoSpaceError (also for objects that would use up the reserve; records may), ConflictError
        for a snapshot that exists or a tag that names another one, NotFoundError for a tag whose
        snapshot is not stored: nothing is changed then, and the store can still be used.
        """
        self._refuse_without_room(batch)
        if batch.snapshots_del or batch.volumes_del:
            self.repack.garbage = True
        packs = packed(batch.frames)
        self.writer.commit(
            lambda txn: self._apply(txn, batch, packs),
            batch.size,
            "store",
            urgent=batch.records_only,
        )
        if not self.damaged.keys().isdisjoint(batch.snapshots_del):
            left = self.damaged.items()
            self.damaged = {key: paths for key, paths in left if key not in batch.snapshots_del}
        if batch.objects_only:
            self._flushed += 1
            failpoint.hit("store.objects_flushed")
        # Records add none, and their caller does not wait for a copy that is made.
        while not batch.records_only and len(self.objects.pack_index) > RECENT_OBJECTS_MAX:
            self.repack.merge()

    def _refuse_without_room(self, batch: Batch) -> None:
        if batch.records_only:
            return
        refusal = self.room.refusal(self.levels(), batch.size)
        if refusal:
            self.room.refused = max(self.room.refused, batch.size)
            raise NoSpaceError(refusal)

    def _apply(self, txn: Transaction, batch: Batch, packs: list[Packed]) -> Made:
        made = self.objects.put(txn, packs + packed(self._new_objects(txn, batch)))
        apply(txn, batch)
        return made

    def _new_objects(self, txn: Transaction, batch: Batch) -> list[pack.Frame]:
        """A frame for each object that is encoded by itself, and does not exist yet."""
        frames: list[pack.Frame] = []
        both = (batch.chunks, ObjectKind.CHUNK), (batch.nodes, ObjectKind.NODE)
        for objects, kind in both:
            for digest in sorted(objects):
                check_key(digest)
                if not self.objects.is_there(txn, digest):
                    frames.append(pack.frame_of(ObjectId(kind, digest), objects[digest]))
        return frames


def _snapshot(key: bytes, raw: bytes) -> SnapshotRecord:
    """The record of this key; CorruptionError if it is another one's."""
    record = SnapshotRecord.decode(raw)
    if tables.pair_key(record.volume_id, record.seq) != key:
        volume_id, seq = tables.pair_of(key)
        raise CorruptionError(f"the record of snapshot {seq} of volume {volume_id} is damaged")
    return record


def _totals(txn: Transaction) -> dict[str, int]:
    return {name: txn.number(tables.TOTALS, name.encode()) or 0 for name in tables.TOTAL_NAMES}
