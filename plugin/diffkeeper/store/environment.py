"""The only user of lmdb: one environment, its tables, its errors, and the growth of its map.

LMDB forbids resizing the map while this process has a transaction open, so every transaction passes
a gate that a resize can close. No transaction outlives the call that began it.
"""

from __future__ import annotations

import errno
import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import lmdb

from diffkeeper import clock, failpoint
from diffkeeper.errors import (
    CorruptionError,
    DiffKeeperError,
    NoSpaceError,
    NotFoundError,
)
from diffkeeper.fsio import durable, linux
from diffkeeper.limits import KIB, MIB, STORE_MAP_BYTES_MAX, STORE_MAP_BYTES_MIN, STORE_SPARE_BYTES
from diffkeeper.store import clean_end, page_check
from diffkeeper.store.gate import Gate
from diffkeeper.store.tables import PACKS, PLACES
from diffkeeper.store.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from diffkeeper.store.tables import Table

STORE_READERS_MAX = 126
STORE_BALLAST_BYTES_MAX = 16 * MIB  # freed for records when the disk is full
STORE_BALLAST_FRACTION = 1 / 64  # of the file system, if that is less
STORE_CHECK_PAGES = 256  # that are checked in one transaction
STORE_PUNCH_SECONDS = 0.1
STORE_PUNCH_PAGES_MIN = 16  # shorter runs of free pages are not made holes
STORE_LOCK_FILE_BYTES = 32 * KIB

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_DAMAGED = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
)
# Open transactions stay below LMDB's table of readers, of which crashed readers may hold a few.
_TRANSACTIONS_MAX = STORE_READERS_MAX - 16
_SPARE_TRANSACTIONS = 4
_BLOCK_BYTES = 512  # the unit of st_blocks
_TABLES_MAX = 16
_SHORT_WRITE_FREE_BYTES = MIB
_COPY = "compacting"
_BALLAST = "ballast"


class MapFull(Exception):
    """The map has no room for the transaction; the environment's owner grows it and repeats."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of the data file, and the number of its last transaction."""

    path: str
    transaction: int


class Environment:
    """An open LMDB environment with its tables."""

    def __init__(self, path: str, tables: Iterable[Table], map_bytes: int) -> None:
        """Open or create the files in the directory `path`.

        CorruptionError for a file that is not LMDB's, is cut, or has a damaged tree; NoSpaceError
        without room.
        """
        self.path = path
        self.data_path = os.path.join(path, "data.mdb")
        self._gate = Gate(_TRANSACTIONS_MAX)
        self._databases: dict[str, lmdb._Database] = {}
        self._checking = threading.Lock()
        self._unchecked: bytes | None = None  # keys of places from here on are not checked yet
        with self._translated():
            self._allocate_lock_file()
            # What a compaction left that a crash ended: it never became the store.
            durable.remove_tree(os.path.join(path, _COPY))
            if os.path.exists(self.data_path) and os.stat(self.data_path).st_size:
                self._check()
            self._env = self._open(map_bytes)
        try:
            self.was_cut = self._extend_cut_file()
            with self._translated():
                self._env.reader_check()
                self._open_tables(tables)
        except BaseException:
            self._env.close()
            raise

    def _check(self) -> None:
        """Check all pages, except those that a clean end vouches for and that can be checked
        later.
        """
        spared = ""
        if clean_end.pop(self.path) == page_check.transaction(self.data_path):
            spared, self._unchecked = PLACES.name, b""
        page_check.check(self.data_path, but_values_of=PACKS.name, but_leaves_of=spared)

    def check_pack_index(self) -> bool:
        """Check some more pages of the table of places; true when all are checked.

        Before that nobody may write there. CorruptionError, each time, for a damaged one.
        """
        with self._checking:
            if self._unchecked is None:
                return True
            with self._gate.shared(), self._translated(), self._env.begin():
                self._unchecked = page_check.check_leaves(
                    self.data_path, PLACES.name, self._unchecked, STORE_CHECK_PAGES
                )
            return self._unchecked is None

    def _open(self, map_bytes: int) -> lmdb.Environment:
        while True:
            try:
                return lmdb.open(
                    self.path,
                    map_size=map_bytes,
                    max_readers=STORE_READERS_MAX,
                    max_dbs=_TABLES_MAX,
                    max_spare_txns=_SPARE_TRANSACTIONS,
                    mode=0o600,
                )
            except lmdb.MemoryError:
                # A limit on address space: a smaller map works, since it can grow.
                if map_bytes <= STORE_MAP_BYTES_MIN:
                    raise
                map_bytes //= 2

    def _allocate_lock_file(self) -> None:
        """Allocate LMDB's lock file, which it writes through a mapping: a full disk would be a
        SIGBUS.
        """
        path = os.path.join(self.path, "lock.mdb")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size < STORE_LOCK_FILE_BYTES:
                os.posix_fallocate(fd, 0, STORE_LOCK_FILE_BYTES)
        finally:
            os.close(fd)

    def _extend_cut_file(self) -> bool:
        """Extend a data file that ends before its last page, which would be a SIGBUS when read;
        whether it did.

        The missing pages become zeros. They may be free ones, so only reading the tables shows
        whether anything is lost.
        """
        pages = self._env.info()["last_pgno"] + 1
        expected = pages * self._env.stat()["psize"]
        if os.stat(self.data_path).st_size >= expected:
            return False
        os.truncate(self.data_path, expected)
        return True

    def _open_tables(self, tables: Iterable[Table]) -> None:
        # Handles only outlive a write transaction; one that changes nothing writes nothing.
        with self._env.begin(write=True) as txn:
            new = not txn.stat()["entries"]
            for table in tables:
                try:
                    create = new or table.since > 1
                    handle = self._env.open_db(table.database, txn=txn, create=create)
                except lmdb.NotFoundError:
                    raise CorruptionError(
                        f"{self.data_path} lacks the table {table.name!r} of a store"
                    ) from None
                self._databases[table.name] = handle

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A read transaction; short, and never begun inside another one."""
        with self._gate.shared(), self._translated(), self._env.begin(buffers=True) as txn:
            yield Transaction(txn, self._databases)

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A write transaction, durable when the block ends; an exception undoes it.

        MapFull, NoSpaceError, CorruptionError from LMDB.
        """
        with (
            self._gate.shared(),
            self._translated(),
            self._env.begin(write=True, buffers=True) as txn,
        ):
            yield Transaction(txn, self._databases)

    def require_removable(self, table: Table, key: bytes) -> None:
        """CorruptionError where LMDB would remove more or less than the value of the key.

        Call it before the removal, in a write transaction that has not changed the key.
        """
        page_check.check_value(self.data_path, table.name, key)

    def grow(self, more_bytes: int) -> None:
        """Enlarge the map by at least `more_bytes`; waits until no transaction is open."""
        with self._gate.exclusive(), self._translated():
            old = self._env.info()["map_size"]
            if old >= STORE_MAP_BYTES_MAX:
                raise NoSpaceError(f"{self.data_path} has grown to its bound of {old} bytes")
            self._env.set_mapsize(min(max(2 * old, old + more_bytes), STORE_MAP_BYTES_MAX))

    def give_back(self, start: int = 0) -> tuple[int, int]:
        """Make holes of long runs of free pages from page `start` on, which needs no room.

        Returns the bytes that the disk got, and the page to go on with, 0 at the end: all others
        wait meanwhile, so that it stops after a while. The caller sees to it that nobody writes;
        waits until no transaction is open. The file keeps its length. Where the file system has no
        holes nothing is given.
        """
        with self._gate.exclusive(), self._translated():
            began = clock.monotonic()
            before = os.stat(self.data_path).st_blocks
            size, runs = page_check.free_runs(self.data_path, STORE_PUNCH_PAGES_MIN)
            # As long as it took to look, at least: else, looking would be most of the work.
            enough = began + max(STORE_PUNCH_SECONDS, 2 * (clock.monotonic() - began))
            after = self._punch([run for run in runs if run[0] >= start], size, enough)
            given = max(0, before - os.stat(self.data_path).st_blocks)
            return given * _BLOCK_BYTES, after

    def _punch(self, runs: list[tuple[int, int]], page_bytes: int, enough: float) -> int:
        """Make a hole of each run, (first page, count), until that time; the page after, or 0."""
        fd = os.open(self.data_path, os.O_RDWR | os.O_CLOEXEC)
        try:
            for page, count in runs:
                linux.punch_hole(fd, page * page_bytes, count * page_bytes)
                if clock.monotonic() >= enough:
                    return page + count
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
        finally:
            os.close(fd)
        return 0

    def held_bytes(self) -> int:
        """What the data file takes on the disk; holes take nothing."""
        status = os.stat(self.data_path)
        return min(status.st_size, status.st_blocks * _BLOCK_BYTES)

    def keep_ballast(self) -> None:
        """Make sure of a file that `drop_ballast` can free, unless others need its space."""
        path = os.path.join(self.path, _BALLAST)
        status = os.statvfs(self.path)
        total = status.f_blocks * status.f_frsize
        size = min(STORE_BALLAST_BYTES_MAX, int(total * STORE_BALLAST_FRACTION))
        held = os.path.exists(path) and os.stat(path).st_size >= size
        if held or status.f_bavail * status.f_frsize < 4 * size:
            return
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with self._translated():
                os.posix_fallocate(fd, 0, size)
        finally:
            os.close(fd)

    def drop_ballast(self) -> bool:
        """Free the ballast's space for a transaction that removes something; false if there is
        none.
        """
        try:
            os.unlink(os.path.join(self.path, _BALLAST))
        except FileNotFoundError:
            return False
        return True

    @contextmanager
    def copied(self) -> Iterator[Copy]:
        """A copy without free pages, for `switch`; it is deleted after the block.

        The caller makes sure that there is space for a copy of what is in use. Others read and
        write meanwhile: their writes are not in it, see `is_as`.
        """
        directory = os.path.join(self.path, _COPY)
        new = os.path.join(directory, "data.mdb")
        try:
            with self._gate.shared(), self._translated():
                copy = Copy(new, self._env.info()["last_txnid"])
                with self._env.begin():
                    # LMDB copies long values by their page headers, which it does not need for
                    # reading.
                    page_check.check(self.data_path)
                durable.make_directory(directory, 0o700)
                self._env.copy(directory, compact=True)
                os.chmod(new, 0o600)
                durable.sync_file(new)
            failpoint.hit("compact.copied")
            yield copy
        finally:
            durable.remove_tree(directory)

    def is_as(self, copy: Copy) -> bool:
        """Whether nothing was written since the copy was begun; nobody may write meanwhile."""
        with self._gate.shared():
            return self._env.info()["last_txnid"] == copy.transaction

    def switch(self, copy: Copy, tables: Iterable[Table]) -> None:
        """Replace the data file by the copy.

        The caller makes sure that nobody writes, and that it `is_as` the file. Readers wait for
        that moment. A crash leaves the old file or the new one.
        """
        with self._gate.exclusive(), self._translated():
            self._switch(copy.path, tables)
        self.keep_spare()

    def _switch(self, new: str, tables: Iterable[Table]) -> None:
        map_bytes = self._env.info()["map_size"]
        self._env.close()
        try:
            durable.replace_file(new, self.data_path)
            failpoint.hit("compact.renamed")
        finally:
            self._databases.clear()
            self._env = self._open(map_bytes)
            self._open_tables(tables)

    def keep_spare(self) -> None:
        """Keep space past the last page, so that records can be written when the disk is full.

        Only between commits. What a failed commit wrote past the spare space is given back; without
        space for it there is less to spare, and the commit that needs it fails.
        """
        with self._gate.shared():
            end = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
            bytes_now = os.stat(self.data_path).st_size
            if bytes_now > end + STORE_SPARE_BYTES:
                os.truncate(self.data_path, end + STORE_SPARE_BYTES)
            elif bytes_now < end + STORE_SPARE_BYTES // 2:
                fd = os.open(self.data_path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    os.posix_fallocate(fd, end, STORE_SPARE_BYTES)
                except OSError as error:
                    if error.errno not in _NO_SPACE:
                        raise
                finally:
                    os.close(fd)

    def page_bytes(self) -> int:
        """Bytes of one page."""
        with self._gate.shared():
            return self._env.stat()["psize"]

    def map_bytes(self) -> int:
        """Present size of the map."""
        with self._gate.shared():
            return self._env.info()["map_size"]

    def close(self) -> None:
        """Wait for open transactions, then close; closing twice is no error."""
        if self._gate.finish():
            transaction = self._env.info()["last_txnid"]
            self._env.close()
            if self._unchecked is None:
                clean_end.write(self.path, transaction)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except lmdb.MapFullError:
            raise MapFull from None
        except lmdb.NotFoundError as error:
            raise NotFoundError(f"{self.data_path}: {error}") from None
        except _DAMAGED as error:
            raise CorruptionError(f"{self.data_path} is damaged: {error}") from error
        except lmdb.Error as error:
            if self._no_space(error):
                raise NoSpaceError(f"no room left for {self.data_path}: {error}") from error
            raise DiffKeeperError(f"{self.data_path}: {error}") from error
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise NoSpaceError(f"no room left in {self.path}: {error}") from error
            raise

    def _no_space(self, error: lmdb.Error) -> bool:
        if isinstance(error, lmdb.DiskError) or error.code in _NO_SPACE:
            return True
        # A write that a full disk cuts short has no errno, and LMDB calls it an I/O error.
        return error.code == errno.EIO and durable.free_bytes(self.path) < _SHORT_WRITE_FREE_BYTES
