"""The live directory of one volume: whether it is there, and how it is made. Blocks."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from diffkeeper import clock, failpoint
from diffkeeper.errors import BusyError, DiffKeeperError, NoSpaceError, UnreadableError
from diffkeeper.fsio import durable
from diffkeeper.replay.object_source import StoreObjects
from diffkeeper.replay.replay import restore
from diffkeeper.replay.space_needed import shortage
from diffkeeper.store.store import Batch
from diffkeeper.volumes.size_limit import SizeLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from diffkeeper.format.records import IndexRecord, SnapshotRecord
    from diffkeeper.snapshot.volume_state import VolumeState
    from diffkeeper.store.store import Store
    from diffkeeper.volumes.layout import VolumePaths
    from diffkeeper.volumes.options import VolumeOptions

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Recovery:
    """How the live directory was obtained at the last mount."""

    kind: str  # "new", "live", "replay" or "takeover"
    milliseconds: float
    files: int
    bytes: int
    time_ns: int
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class Replaying:
    """A replay under way: which snapshot, when it began, and its progress."""

    snapshot: SnapshotRecord
    since_ns: int
    files: int = 0
    bytes: int = 0


class LiveDirectory:
    """The live directory of a volume. It is renamed into place, so it is complete when it is
    there.
    """

    def __init__(
        self,
        store: Store,
        state: VolumeState,
        paths: VolumePaths,
        proc_root: str,
        size: int | None,
    ) -> None:
        """`size`: its limit in bytes, None for none."""
        self._store = store
        self._state = state
        self._paths = paths
        self._path = paths.live
        self._limit = SizeLimit(self._path, state.record.id, proc_root, size)
        self._replaying: Replaying | None = None
        self._ending = threading.Event()

    @property
    def limit(self) -> SizeLimit:
        """Its limit of size."""
        return self._limit

    @property
    def replaying(self) -> Replaying | None:
        """The replay under way, if there is one; for any thread."""
        return self._replaying

    @property
    def present(self) -> bool:
        """Whether it is there; UnreadableError where that cannot be found out."""
        there = self._asked(lambda: durable.is_there(self._path))
        # While its own disk is not mounted, the directory above is on the disk below.
        if not there and self._state.record.live_id and not self.identity():
            raise UnreadableError(
                f"{self._name} was on a disk of its own, which is not mounted; mount it, and start"
                " the container again"
            )
        return there

    @property
    def readable(self) -> bool:
        """Whether it is there for certain; false where that cannot be found out."""
        try:
            return self.present
        except UnreadableError:
            return False

    @property
    def _name(self) -> str:
        return f"the live directory {self._paths.shown} of {self._state.record.name}"

    def identity(self) -> str:
        """Identity for the volume's record: device and inode, if it is not on the store's disk.

        UnreadableError.
        """

        def identity() -> str:
            found = durable.directory_status(self._path)
            device = found.st_dev if found else durable.device_of(self._paths.directory)
            if device == durable.device_of(self._store.room.path):
                return ""
            return f"{device}:{found.st_ino if found else 0}"

        return self._asked(identity)

    def _asked(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except OSError as error:
            raise UnreadableError(
                f"{self._name} cannot be looked at: {error.strerror}; nothing is replayed in its"
                " place, and nothing of it deleted, until it can be, or is moved away"
            ) from error

    @property
    def waiting_for(self) -> str:
        """What a Mount that waits for the replay is waiting for, for its error message."""
        now = self._replaying
        if now is None:
            return "its data is still being replayed"
        return f"its data is still being replayed ({now.files} of {now.snapshot.files} files)"

    def tidy(self) -> None:
        """Delete what an interrupted replay has left."""
        durable.remove_tree(self._paths.incoming)

    def end(self) -> None:
        """The daemon stops: cancel a replay under way. Its files are deleted by the next replay."""
        self._ending.set()

    def command(self) -> str:
        """Shell command that puts a snapshot of the user's choice here, as a whole or not at
        all.
        """
        durable.make_directory(self._paths.directory, 0o700)  # the command writes below it
        name, paths = self._state.record.name, self._paths
        to, at = shlex.quote(paths.restored), shlex.quote(paths.shown)
        return f"diffkeeper restore {name}@SEQ --to {to} && mv -T {to} {at}"

    def make(self, options: VolumeOptions) -> None:
        """Make an empty live directory."""
        durable.make_directory(self._paths.directory, 0o700)
        self._forget_repair()
        durable.make_directory(
            self._paths.incoming, 0o755 if options.mode is None else options.mode
        )
        os.chown(
            self._paths.incoming,
            -1 if options.uid is None else options.uid,
            -1 if options.gid is None else options.gid,
        )
        self._limit.begin(self._paths.incoming)
        durable.rename_directory(self._paths.incoming, self._path)

    def replay(self, snapshot: SnapshotRecord) -> None:
        """Make the live directory from a snapshot, which becomes the volume's state.

        NoSpaceError, before anything is written if it certainly does not fit, or later; nothing is
        left behind then. BusyError when the daemon stops.
        """
        self._replaying = Replaying(snapshot, clock.now_ns())
        try:
            with self._explained():
                self._build(snapshot)
                failpoint.hit("replay.before_rename")
                durable.rename_directory(self._paths.incoming, self._path)
                failpoint.hit("replay.after_rename")
        finally:
            self._replaying = None

    def _forget_repair(self) -> None:
        """A repair that was interrupted ended with the directory that it worked on."""
        if os.path.lexists(self._paths.repair):
            durable.remove_file(self._paths.repair)

    def _build(self, snapshot: SnapshotRecord) -> None:
        durable.make_directory(self._paths.directory, 0o700)
        self._forget_repair()
        self._refuse_without_room(snapshot)
        durable.make_directory(self._paths.incoming, 0o700)
        self._limit.begin(self._paths.incoming)
        volume = self._state.record.id
        store = self._store
        store.commit(Batch(drop_index={volume}))
        # The replayed snapshot becomes the head. Fuzzy ones that are newer stay in the history.
        head = self._state.head

        def sign(signatures: dict[int, IndexRecord]) -> None:
            batch = Batch()
            for inode, record in signatures.items():
                batch.index_put[volume, inode] = record.encode()
            store.commit(batch)

        same = head is not None and head.root == snapshot.root
        try:
            restore(
                snapshot.root,
                StoreObjects(store),
                self._paths.incoming,
                progress=self._progress,
                signed=sign if same else None,
            )
        except BaseException as error:
            if not self._ending.is_set():
                self._undo(error)
            raise

    def _refuse_without_room(self, snapshot: SnapshotRecord) -> None:
        get, digest = self._store.node, snapshot.root
        least, free = shortage(digest, snapshot.bytes, get, self._paths.directory)
        if least:
            raise NoSpaceError(
                f"{self._name} cannot be replayed: it takes {least} bytes or more, and {free} are"
                " free; make room, and start the container again"
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of the file system into errors of this program."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            kind = NoSpaceError if full else DiffKeeperError
            failure = kind(f"{self._name} could not be replayed: {error}")
            for note in getattr(error, "__notes__", []):
                failure.add_note(note)
            raise failure from error

    def _undo(self, error: BaseException) -> None:
        """Delete what was written: it may have filled the disk."""
        try:
            durable.remove_tree(self._paths.incoming)
        except (DiffKeeperError, OSError) as second:
            error.add_note(f"what it had written stays for now: {second}")

    def _progress(self, files: int, size: int) -> None:
        if self._ending.is_set():
            raise BusyError("the daemon is stopping; the replay begins anew at its next start")
        replaying = self._replaying
        if replaying is not None:
            self._replaying = Replaying(replaying.snapshot, replaying.since_ns, files, size)
