"""One volume: its live directory, mounts, captures, recovery and verification.

All methods block and are called from worker threads; the service lets one lifecycle step of a
volume run at a time. The live directory is the truth: it is created or replayed only where there
is none.
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from diffkeeper import clock, counters, failpoint, limits
from diffkeeper.engine import damage
from diffkeeper.engine.objects import StoreObjects
from diffkeeper.engine.replay import restore
from diffkeeper.engine.snapshotter import Policy, Snapshotter, Tools
from diffkeeper.engine.verify import Result, Verifier, entry_at
from diffkeeper.errors import ConflictError, NoSpaceError, NotFoundError
from diffkeeper.fsio import durable, mounts
from diffkeeper.store.store import Batch
from diffkeeper.volumes.mount_ledger import MountLedger
from diffkeeper.volumes.options import VolumeOptions, parse_options
from diffkeeper.volumes.origin import CLONE
from diffkeeper.volumes.pace import Cost, Pace
from diffkeeper.volumes.repairs import settle_interrupted
from diffkeeper.volumes.status import repair_command

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from diffkeeper.engine.volume import VolumeState
    from diffkeeper.format.records import IndexRecord, SnapshotRecord
    from diffkeeper.freeze.writers import Writers
    from diffkeeper.volumes.accounting import Account, Accounts

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the volumes of one daemon are."""

    volumes: str
    mounts: str


@dataclass(frozen=True, slots=True)
class Recovery:
    """How the live directory came to be there at the last mount."""

    kind: str  # "new", "live", "replay" or "takeover"
    milliseconds: float
    files: int
    bytes: int
    time_ns: int
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """The last comparison of the live directory with the newest snapshot."""

    result: Result
    seq: int
    root: str
    time_ns: int

    @property
    def ok(self) -> bool:
        """Whether nothing differed."""
        return not self.result.mismatches


class Volume:
    """One volume of this daemon."""

    def __init__(self, tools: Tools, state: VolumeState, places: Places) -> None:
        self._tools = tools
        self.state = state
        self.options: VolumeOptions = parse_options(state.record.options)
        self._directory = os.path.join(places.volumes, str(state.record.id))
        self.live = os.path.join(self._directory, "live")
        self.removed = os.path.join(self._directory, "removed")  # what a removal left to delete
        self.repairing = os.path.join(self._directory, "repair")  # journal of a repair under way
        self._incoming = os.path.join(self._directory, "incoming")
        self.mountpoint = os.path.join(places.mounts, str(state.record.id))
        self.snapshotter: Snapshotter | None = None
        self.recovery: Recovery | None = None
        self.verification: Verification | None = None
        self.troubles: dict[str, str] = {}
        self.pace = Pace(self.options.interval_seconds, self.options.interval_seconds)
        self.group: tuple[str, ...] = ()  # names of the volumes that are captured with this one
        self.group_note = ""
        self.fresh = False  # nothing was looked at since it was mounted
        self.account: tuple[Account, Accounts] | None = None  # how it stood when last counted
        self.tags = tools.store.tags(state.record.id)  # tag to seq; replaced, never changed
        self.forgotten: int | None = None  # snapshots that are not stored any more; None: unknown
        self._ledger = MountLedger()
        # In its last look the record still says mounted, so that a power cut is known for one.
        self.leaving = False

    @property
    def name(self) -> str:
        """The name that its users gave it."""
        return self.state.record.name

    @property
    def mounted(self) -> bool:
        """Whether any mount id holds it."""
        return bool(self._counts)

    @property
    def _counts(self) -> Mapping[str, int]:
        return {} if self.leaving else self.state.record.mounts

    @property
    def stored_snapshots(self) -> int:
        """How many snapshots are stored."""
        return self.state.record.next_seq - 1 - (self.forgotten or 0)

    @property
    def stored_bytes(self) -> int:
        """What the snapshots that are stored have added to the store, as far as it is counted."""
        return self.state.stored.bytes

    @property
    def damaged_snapshots(self) -> list[int]:
        """Numbers of the first ones that the last scrub found damaged."""
        number = self.state.record.id
        found = sorted(seq for volume, seq in self._tools.store.damaged if volume == number)
        return found[: limits.DAMAGED_SNAPSHOTS_SHOWN_MAX]

    # Live directory

    @property
    def present(self) -> bool:
        """Whether there is a live directory; it is complete then, since it was renamed there."""
        return os.path.isdir(self.live)

    def prepare(self) -> Recovery:
        """Have a complete live directory: the present one, an empty one, or a replayed one.

        Raises ConflictError when there is none and no snapshot may stand in for it unasked.
        """
        started = clock.monotonic()
        durable.remove_tree(self._incoming)
        files = size = 0
        head = self.state.head
        seq = head.seq if head is not None else None
        if self.present:
            kind = "live"
        elif head is None:
            kind = "new"
            self._make_live()
        else:
            kind = "replay"
            chosen = self._tools.store.newest_crash(self.state.record.id)
            if chosen is None and head.reason == CLONE:
                chosen = head  # its state was asked for by name
            if chosen is None:
                raise ConflictError(
                    f"the live directory of {self.name} is gone, and no snapshot of it is crash-"
                    f"consistent; choose one: diffkeeper restore {self.name}@SEQ --to {self.live}"
                )
            files, size, seq = chosen.files, chosen.bytes, chosen.seq
            self._replay(chosen)
        milliseconds = (clock.monotonic() - started) * 1000
        return self._recovered(kind, milliseconds, files, size, seq)

    def _recovered(
        self, kind: str, milliseconds: float, files: int, size: int, seq: int | None
    ) -> Recovery:
        self.recovery = Recovery(kind, round(milliseconds, 3), files, size, clock.now_ns(), seq)
        counters.add("recovery_total", volume=self.name, kind=kind)
        counters.observe("recovery_seconds", milliseconds / 1000, kind=kind)
        return self.recovery

    def _make_live(self) -> None:
        durable.make_directory(self._directory, 0o700)
        options = self.options
        durable.make_directory(self._incoming, 0o755 if options.mode is None else options.mode)
        os.chown(
            self._incoming,
            -1 if options.uid is None else options.uid,
            -1 if options.gid is None else options.gid,
        )
        durable.rename_directory(self._incoming, self.live)

    def _replay(self, snapshot: SnapshotRecord) -> None:
        # What is bound there, if anything, is the directory that is gone.
        mounts.unbind(self.mountpoint)
        durable.make_directory(self._directory, 0o700)
        durable.make_directory(self._incoming, 0o700)
        volume = self.state.record.id
        store = self._tools.store
        store.commit(Batch(drop_index={volume}))
        # The head must be what is replayed: what is newer than it and fuzzy stays in history.
        head = self.state.head

        def sign(signatures: dict[int, IndexRecord]) -> None:
            batch = Batch()
            for inode, record in signatures.items():
                batch.index_put[volume, inode] = record.encode()
            store.commit(batch)

        same = head is not None and head.root == snapshot.root
        try:
            restore(
                bytes.fromhex(snapshot.root),
                StoreObjects(store),
                self._incoming,
                signed=sign if same else None,
            )
        except BaseException:
            durable.remove_tree(self._incoming)  # it may have filled the disk, for everybody
            raise
        failpoint.hit("replay.before_rename")
        durable.rename_directory(self._incoming, self.live)
        failpoint.hit("replay.after_rename")

    # Mounts

    def writers(self) -> Writers:
        """Who has the volume mounted right now."""
        assert self.snapshotter is not None  # noqa: S101  # opened by every caller
        target = self.snapshotter.target
        return self._tools.survey.find([target])[target]

    @property
    def _policy(self) -> Policy:
        options = self.options
        return Policy(
            source=options.capture,
            freeze=options.consistency == "crash",
            freeze_seconds_max=options.freeze_seconds_max,
            level=options.compression_level,
            chunk_bits=options.chunk_bits,
        )

    def open(self) -> None:
        """Begin to watch the live directory."""
        if self.snapshotter is None:
            settle_interrupted(self, self._tools.store)
            self.snapshotter = Snapshotter(self._tools, self.state, self.live, self._policy)
            log.info(
                "capture",
                extra={
                    "volume": self.name,
                    "source": self.snapshotter.watched.source.name,
                    "reason": self.snapshotter.watched.reason,
                },
            )

    def take_options(self) -> None:
        """The recorded options rule from now on; a volume that is watched is looked at anew."""
        before, self.options = self._policy, parse_options(self.state.record.options)
        interval = self.options.interval_seconds
        self.pace.interval = self.pace.effective = interval
        if self.snapshotter is not None and self._policy != before:
            self.close()
            self.open()

    def close(self) -> None:
        """Stop watching; waits for a capture under way."""
        snapshotter, self.snapshotter = self.snapshotter, None
        self.group, self.group_note = (), ""
        if snapshotter is not None:
            snapshotter.close()

    def hold(self, mount_id: str) -> None:
        """Bind the live directory at the mount point and count one mount of this id, durably."""
        self.open()
        failpoint.hit("mount.before_bind")
        mounts.bind(self.live, self.mountpoint)
        failpoint.hit("mount.after_bind")
        counts = self._settled(self._counts)
        if mount_id not in counts and len(counts) >= limits.MOUNT_IDS_MAX:
            raise ConflictError(f"{self.name} is mounted {len(counts)} times already")
        counts[mount_id] = counts.get(mount_id, 0) + 1
        self._ledger.hold(mount_id, clock.monotonic())
        self.state.update(mounts=counts, boot_id=durable.boot_id(), clean=False)
        self.leaving = False

    def release(self, mount_id: str) -> bool:
        """Count one mount of this id less; true when it was the last one of all.

        Whatever the id, mounts whose containers have ended without an Unmount count no more.
        """
        before = self._counts
        counts = dict(before)
        counts[mount_id] = counts.get(mount_id, 0) - 1
        counts = self._settled({i: n for i, n in counts.items() if n > 0})
        if counts and counts != before:
            self.state.update(mounts=counts)
        self.leaving = self.leaving or (bool(before) and not counts)
        return bool(before) and not counts

    def released(self) -> None:
        """Record that nothing has the volume mounted any more."""
        mounts.unbind(self.mountpoint)
        failpoint.hit("unmount.after_unbind")
        self._forget_mounts(clean=True)
        self.leaving = False

    def abandoned(self) -> bool:
        """Whether every counted mount has lost its container without an Unmount."""
        counts = self._counts
        return bool(counts) and not self._standing(counts)

    def _standing(self, counts: Mapping[str, int]) -> dict[str, int]:
        """The counts that hold; all of them while anybody has the volume mounted."""
        left = self._ledger.standing(counts, clock.monotonic())
        return dict(counts) if left == counts or self.users() else left

    def _settled(self, counts: Mapping[str, int]) -> dict[str, int]:
        """The same, of which the caller makes the counts."""
        left = self._standing(counts)
        self._ledger.keep(left, nobody=left != counts)
        return left

    def _forget_mounts(self, *, clean: bool = False) -> None:
        self._ledger.keep({})
        self.state.update(mounts={}, clean=clean)

    def users(self) -> frozenset[int]:
        """Processes that have the live directory mounted, read-only or not, counted or not."""
        if self.snapshotter is None and not self.present:
            return frozenset()
        self.open()
        return self.writers().users

    def see(self, writers: Writers) -> None:
        """Note whose containers have come."""
        self._ledger.see(self.state.record.mounts, writers.containers, writers.at)

    @property
    def expecting(self) -> bool:
        """Whether a mount is counted whose container has not been seen yet."""
        counts = self.state.record.mounts
        return bool(self._ledger.standing(counts, clock.monotonic()))

    def take_over(self) -> None:
        """After a restart of the daemon: watch and bind again what containers still have."""
        started = clock.monotonic()
        self._ledger.inherit(self.state.record.mounts)
        if not self.present:
            self.troubles["live"] = (
                f"the live directory {self.live} is gone while the volume is mounted; it is"
                " replayed at the next mount"
            )
            return
        self.open()
        mounts.bind(self.live, self.mountpoint)
        self._recovered("takeover", (clock.monotonic() - started) * 1000, 0, 0, None)

    # Captures

    def pending(self, writers: Writers) -> bool:
        """Whether a capture would find work."""
        self.see(writers)
        return self.snapshotter is not None and self.snapshotter.pending(writers)

    def quiet(self) -> bool:
        """Whether nothing is hinted, and only what the writers map now might change unseen."""
        return self.snapshotter is not None and self.snapshotter.quiet()

    def hinted(self) -> bool:
        """Whether a source that tells all changes has told one since the last capture began."""
        source = self.snapshotter.watched.source if self.snapshotter is not None else None
        return source is not None and source.complete and source.pending()

    def capture_failed(self, error: Exception, shortest: float, cost: Cost) -> None:
        """No snapshot could be taken. `shortest`: interval of those captured together."""
        kind = "no_space" if isinstance(error, NoSpaceError) else type(error).__name__
        counters.add("capture_errors_total", volume=self.name, error=kind)
        self.troubles["capture"] = f"no snapshot could be taken: {error}"
        self.pace.failed(shortest, cost)

    def captured(self, snapshot: SnapshotRecord | None) -> None:
        """A capture succeeded; None when nothing had changed."""
        self.troubles.pop("capture", None)
        # What the last unmount could not record is recorded now.
        self.troubles.pop("unmount", None)
        self._note_lacking()
        if snapshot is None:
            return
        if snapshot.consistency == "fuzzy":
            self.troubles["fuzzy"] = f"the last snapshot is fuzzy: {snapshot.cause}"
        else:
            self.troubles.pop("fuzzy", None)
        log.info(
            "snapshot",
            extra={
                "volume": self.name,
                "seq": snapshot.seq,
                "consistency": snapshot.consistency,
                "reason": snapshot.reason,
                "files": snapshot.files,
                "new_bytes": snapshot.new_bytes,
                "freeze_ms": snapshot.freeze_ms,
                "capture_ms": snapshot.capture_ms,
                **({"group": snapshot.group_id} if snapshot.group else {}),
                **({"cause": snapshot.cause} if snapshot.cause else {}),
            },
        )

    def _note_lacking(self) -> None:
        """Tell what the newest state lacks of what is on disk."""
        lacking = self.snapshotter.lacking.text if self.snapshotter is not None else ""
        if lacking:
            self.troubles["files"] = f"its newest state is not all that is there: {lacking}"
        else:
            self.troubles.pop("files", None)

    # Verification

    def verify_live(
        self,
        seconds: float | None,
        capture: Callable[[], object],
        *,
        since_verified: bool,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Verification | None:
        """Compare the live directory with the newest snapshot; None without one, or if `cancelled`.

        With `since_verified`, only what changed since the last good verification. A path that
        its users changed meanwhile is no fault: the `capture` that follows records the change.
        """
        head = self.state.head
        if head is None:
            return None
        root = bytes.fromhex(head.root)
        unless: bytes | None = None
        verified = self.state.record.verified_seq
        if since_verified and verified is not None and verified != head.seq:
            # Where it was forgotten, everything is verified again.
            with contextlib.suppress(NotFoundError):
                record = self._tools.store.snapshot(self.state.record.id, verified)
                unless = bytes.fromhex(record.root)
        tools = self._tools
        verifier = Verifier(tools.store, tools.reader, seconds=seconds, cancelled=cancelled)
        result = verifier.live(self.live, root, unless)
        if cancelled():
            return None
        if result.mismatches and self.snapshotter is not None:
            capture()
            after = self.state.head
            assert after is not None  # noqa: S101  # there was one before
            store, later = self._tools.store, bytes.fromhex(after.root)
            result.mismatches = [
                m
                for m in result.mismatches
                if entry_at(store, root, m.path) == entry_at(store, later, m.path)
            ]
        number, found = self.state.record.id, result.mismatches
        result.mismatches = damage.judged(self._tools.store, number, self.live, root, found)
        self.verification = Verification(result, head.seq, head.root, clock.now_ns())
        self._verified(head, result)
        return self.verification

    def _verified(self, head: SnapshotRecord, result: Result) -> None:
        ok = not result.mismatches
        outcome = ("ok" if result.complete else "incomplete") if ok else "mismatch"
        counters.add("verifications_total", volume=self.name, result=outcome)
        fields = {"volume": self.name, "seq": head.seq, "files": result.files, "result": outcome}
        if ok:
            self.troubles.pop("verification", None)
            log.info("verified", extra=fields)
            if result.complete:
                self.state.update(verified_seq=head.seq)
            return
        named = "; ".join(f"{os.fsdecode(m.path)!r} {m.problem}" for m in result.mismatches[:10])
        offer = repair_command(self.name, result)
        self.troubles["verification"] = (
            f"{len(result.mismatches)} paths differ from snapshot {head.seq}: {named}"
            + (f"; put back what is damaged: {offer}" if offer else "")
        )
        log.error("verification_failed", extra={**fields, "faults": named, "repair": offer})

    def repaired(self, names: Collection[bytes]) -> None:
        """These files are whole again: the last verification shows what it left."""
        found, head = self.verification, self.state.head
        if found is None or head is None:
            return
        left = [m for m in found.result.mismatches if m.path not in names]
        if len(left) < len(found.result.mismatches):
            result = replace(found.result, mismatches=left)
            self.verification = Verification(result, head.seq, head.root, clock.now_ns())
            self._verified(head, result)

    def verify_stored(self, snapshot: SnapshotRecord) -> Result:
        """Read every object of a snapshot."""
        verifier = Verifier(self._tools.store, self._tools.reader)
        return verifier.stored(bytes.fromhex(snapshot.root))
