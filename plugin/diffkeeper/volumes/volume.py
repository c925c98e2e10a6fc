"""One volume: its live directory, mounts, captures, recovery and verification.

All methods block and run on worker threads; the service lets one lifecycle step of a volume run at
a time. The live directory is the truth: it is only created or replayed when it is absent.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from diffkeeper import clock, counters, failpoint
from diffkeeper.errors import (
    ConflictError,
    CorruptionError,
    MountUnseenError,
    NoSpaceError,
    NotFoundError,
    UnreadableError,
)
from diffkeeper.freeze.writers import Target
from diffkeeper.fsio import mountinfo, propagation
from diffkeeper.integrity.verify import Result, Verifier
from diffkeeper.snapshot.watched_volume import WatchedVolume
from diffkeeper.volumes import lifecycle
from diffkeeper.volumes import size_limit as sizes
from diffkeeper.volumes.interrupted_repair import finish_interrupted
from diffkeeper.volumes.lifecycle import Event, State
from diffkeeper.volumes.live import LiveDirectory, Recovery
from diffkeeper.volumes.live_verification import LiveVerification
from diffkeeper.volumes.log_summary import Summary
from diffkeeper.volumes.mount_counts import MountCounts
from diffkeeper.volumes.options import VolumeOptions, parse_options
from diffkeeper.volumes.throttle import Cost, Throttle
from diffkeeper.volumes.volume_life import VolumeLife
from diffkeeper.volumes.volume_status import ShownGroup, Verification, VolumeStatus
from diffkeeper.volumes.wording import CLONE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from diffkeeper.format.records import SnapshotRecord
    from diffkeeper.freeze.writers import Writers
    from diffkeeper.snapshot.context import CaptureContext
    from diffkeeper.snapshot.volume_state import VolumeState
    from diffkeeper.volumes.layout import VolumePaths

log = logging.getLogger(__name__)
FUZZY_SECONDS_MAX = 10.0  # for which all snapshots may be fuzzy before that is a trouble
FUZZY_INTERVALS_MAX = 2  # and at least so many intervals of the volume
DAMAGED_SNAPSHOTS_SHOWN_MAX = 100  # in Status


class Volume:
    """One volume of this daemon."""

    def __init__(self, context: CaptureContext, state: VolumeState, paths: VolumePaths) -> None:
        self._context = context
        self._state = state
        self._options: VolumeOptions = parse_options(state.record.options)
        self._paths = paths
        self._directory = LiveDirectory(
            context.store, state, paths, context.proc_root, self._options.size_bytes
        )
        self._watched: WatchedVolume | None = None
        self._unused = False  # replayed by this daemon, and not mounted since
        self._status = VolumeStatus(context.store.tags(state.record.id))
        self._throttle = Throttle(self._options.interval_seconds)
        self._verification = LiveVerification(context, state, self._status, paths.live)
        self._mounts = MountCounts(state, self.users)
        troubles = self._status.troubles
        self._life = VolumeLife(state, paths, self._directory, self._mounts, troubles)
        self._summary = Summary()
        self._crash_at = 0.0  # monotonic: newest crash-consistent snapshot, or begin of watching

    @property
    def state(self) -> VolumeState:
        """Its record and newest snapshot."""
        return self._state

    @property
    def options(self) -> VolumeOptions:
        """The options in force."""
        return self._options

    @property
    def paths(self) -> VolumePaths:
        """Where its files are."""
        return self._paths

    @property
    def live(self) -> str:
        """Path of the live directory."""
        return self._paths.live

    @property
    def mountpoint(self) -> str:
        """Where the live directory is bound while it is mounted."""
        return self._paths.mountpoint

    @property
    def directory(self) -> LiveDirectory:
        """The live directory."""
        return self._directory

    @property
    def mounts(self) -> MountCounts:
        """How often it is mounted."""
        return self._mounts

    @property
    def life(self) -> VolumeLife:
        """Where it is in its life, and what may happen to it."""
        return self._life

    @property
    def watched(self) -> WatchedVolume | None:
        """What is known of it from capture to capture; None while it is not watched."""
        return self._watched

    @property
    def status(self) -> VolumeStatus:
        """What is known of it beside its record."""
        return self._status

    @property
    def throttle(self) -> Throttle:
        """When its next capture is due."""
        return self._throttle

    @property
    def name(self) -> str:
        """Name of the volume."""
        return self._state.record.name

    @property
    def mounted(self) -> bool:
        """Whether any mount is counted."""
        return bool(self._mounts.by_id)

    @property
    def stored_snapshots(self) -> int:
        """Number of stored snapshots."""
        return self._state.record.next_seq - 1 - (self._status.forgotten or 0)

    @property
    def stored_bytes(self) -> int:
        """Bytes that its stored snapshots have added to the store, as far as they are counted."""
        return self._state.stored.bytes

    @property
    def damaged_snapshots(self) -> list[int]:
        """Sequence numbers of snapshots that the last scrub found damaged, the first ones."""
        number = self._state.record.id
        found = sorted(seq for volume, seq in self._context.store.damaged if volume == number)
        return found[:DAMAGED_SNAPSHOTS_SHOWN_MAX]

    # Live directory

    @property
    def present(self) -> bool:
        """Whether the live directory is there. It is complete then, since it is renamed into place.

        UnreadableError where that cannot be found out.
        """
        return self._directory.present

    def prepare(self) -> Recovery:
        """Make sure of a complete live directory: the present one, an empty one, or a replayed one.

        ConflictError when it is absent and there is no `crash` snapshot to replay.
        """
        started = clock.monotonic()
        state = self._life.require(Event.MOUNT)
        # One that is counted as mounted may be lost all the same.
        there = self.present if state is State.MOUNTED else state in lifecycle.WITH_LIVE
        self._directory.tidy()
        files = size = 0
        head = self._state.head
        seq = head.seq if head is not None else None
        if there:
            if (last := self._status.recovery) is not None and self._unused:
                return last
            kind = "live"
        elif head is None:
            kind = "new"
            self._directory.make(self._options)
        else:
            kind = "replay"
            chosen = self._context.store.newest_crash(self._state.record.id)
            if chosen is None and head.reason == CLONE:
                chosen = head  # its state was named by the user
            if chosen is None:
                raise ConflictError(
                    f"the live directory of {self.name} is gone, and no snapshot of it is crash-"
                    f"consistent; choose one: {self._directory.command()}"
                )
            files, size, seq = chosen.files, chosen.bytes, chosen.seq
            self._replay(chosen)
        self._limit("" if self.mounted else self._paths.incoming)
        self._unused = kind == "replay"
        milliseconds = (clock.monotonic() - started) * 1000
        return self._recovered(kind, milliseconds, files, size, seq)

    def _replay(self, snapshot: SnapshotRecord) -> None:
        before = State.MOUNTED if self.mounted else State.REPLAYING
        # A bind mount that is still there shows the directory that is gone.
        mountinfo.unbind(self.mountpoint)
        try:
            self._directory.replay(snapshot)
        except BaseException:
            self._life.follow(before, Event.REPLAY_FAILED)
            raise
        self._life.follow(before, Event.REPLAYED)

    def _recovered(
        self, kind: str, milliseconds: float, files: int, size: int, seq: int | None
    ) -> Recovery:
        how = Recovery(kind, round(milliseconds, 3), files, size, clock.now_ns(), seq)
        self._status.recovered(how)
        counters.add("recovery_total", volume=self.name, kind=kind)
        counters.observe("recovery_seconds", milliseconds / 1000, kind=kind)
        return how

    # Mounts

    def open(self, *, interrupted: bool = True) -> WatchedVolume:
        """Watch the live directory, unless it is watched already. interrupted: a killed repair may
        have left a journal.
        """
        if (watched := self._watched) is None:
            if interrupted:
                self._finish_repair()
            watched = WatchedVolume(self._context, self._state, self.live, self._options.policy)
            self._watched = watched
            self._crash_at = clock.monotonic()
            fields = {"source": watched.source.name, "reason": watched.watcher.reason}
            log.info("capture", extra={"volume": self.name, **fields})
        return watched

    def _finish_repair(self) -> None:
        store, troubles = self._context.store, self._status.troubles
        if finish_interrupted(store, self._state, self._paths, self._life, troubles):
            self._life.follow(State.REPAIRING, Event.SETTLED)

    def _limit(self, aside: str = "") -> None:
        sizes.apply(self._directory.limit, self._status.troubles, aside)

    def apply_options(self) -> None:
        """Apply the recorded options; a volume that is watched gets a new watcher."""
        before, self._options = self._options, parse_options(self._state.record.options)
        self._throttle.set_interval(self._options.interval_seconds)
        self._directory.limit.set_size(self._options.size_bytes)
        if self._directory.readable:
            self._limit("" if self.mounted else self._paths.incoming)
        if self._watched is not None and self._options.policy != before.policy:
            self.close()
            self.open()

    def end(self) -> None:
        """The daemon stops: refuse new long steps, and cancel those under way."""
        self._directory.end()

    def close(self) -> None:
        """Stop watching; waits for a capture under way."""
        watched, self._watched = self._watched, None
        self._status.grouped(ShownGroup())
        if watched is not None:
            watched.close()

    def mount(self, mount_id: str) -> None:
        """Bind the live directory to the mount point and count one mount of this id, durably."""
        state = self._life.require(Event.MOUNT)
        live_id = self._directory.identity()
        self.open(interrupted=state is not State.LIVE)
        failpoint.hit("mount.before_bind")
        mountinfo.bind(self.live, self.mountpoint)
        failpoint.hit("mount.after_bind")
        if not propagation.is_seen(self.mountpoint, self._context.proc_root):
            raise MountUnseenError(
                f"{self.name} is mounted where the host does not see it, and a container would get"
                " an empty directory: the engine has to start the plugin anew (docker plugin"
                " disable -f and enable, if it does not do so by itself in a moment)"
            )
        self._mounts.add(mount_id, live_id)
        self._unused = False

    def released(self) -> None:
        """Record that the volume is not mounted any more."""
        if self._state.record.mounts:
            self._life.require(Event.LAST_UNMOUNT, mounted=True)
        mountinfo.unbind(self.mountpoint)
        failpoint.hit("unmount.after_unbind")
        self._mounts.forget()

    def users(self) -> frozenset[int]:
        """Processes that have the live directory mounted, also read-only, and whether counted or
        not. Watches nothing.
        """
        if (watched := self._watched) is not None:
            target = watched.target
        elif self._directory.readable:
            target = Target(*mountinfo.locate(self.live)[:2])
        else:
            return frozenset()
        return self._context.survey.find([target])[target].users

    def take_over(self) -> None:
        """After a restart of the daemon: watch and bind again what containers still have
        mounted.
        """
        started = clock.monotonic()
        self._life.follow(State.MOUNTED, Event.DAEMON_KILLED)
        self._mounts.inherit()
        try:
            present = self.present
        except UnreadableError as error:
            self._status.troubles.begin("live", str(error))
            return
        if not present:
            self._status.troubles.begin(
                "live",
                f"the live directory {self._paths.shown} is gone while the volume is mounted; it"
                " is replayed, and the containers that have it do not see that: start them again",
            )
            return
        self.open()
        mountinfo.bind(self.live, self.mountpoint)
        self._limit()
        self._recovered("takeover", (clock.monotonic() - started) * 1000, 0, 0, None)

    # Captures

    def pending(self, writers: Writers) -> bool:
        """Whether a capture would find work."""
        self._mounts.see(writers)
        return self._watched is not None and self._watched.pending(writers)

    def quiet(self) -> bool:
        """Whether there are no hints, so that only a survey of processes could show a change."""
        return self._watched is not None and self._watched.quiet()

    @property
    def trusting(self) -> bool:
        """Whether the survey may be left out at most intervals, see `WatchedVolume.trusting`."""
        return self._watched is not None and self._watched.trusting

    def hinted(self) -> bool:
        """Whether a source that sees all changes has hinted one since the last capture began."""
        source = self._watched.watcher.source if self._watched is not None else None
        return source is not None and source.complete and source.pending()

    def capture_failed(self, error: Exception, shortest: float, cost: Cost) -> None:
        """Record that no snapshot could be taken. `shortest`: smallest interval of the group."""
        kind = "no_space" if isinstance(error, NoSpaceError) else type(error).__name__
        counters.add("capture_errors_total", volume=self.name, error=kind)
        if isinstance(error, CorruptionError | NotFoundError):
            self._context.store.repack.suspected = True  # damage in the store is healed by a scrub
        self._status.troubles.begin("capture", f"no snapshot could be taken: {error}")
        self._throttle.failed(shortest, cost)

    def captured(self, snapshot: SnapshotRecord | None) -> None:
        """Record that a capture succeeded; None when nothing had changed."""
        self._status.troubles.end("capture")
        # The last unmount may have failed to record its mount counts: this commit makes up for it.
        self._status.troubles.end("unmount")
        self._update_lacking()
        if self._options.size_bytes is not None:
            self._limit()
        if snapshot is None:
            return
        self._update_consistency(snapshot)
        self._summary.log_snapshot(self.name, snapshot)

    def _update_consistency(self, snapshot: SnapshotRecord) -> None:
        """Update the trouble about consistency: it begins when all snapshots of a while are fuzzy.

        A single fuzzy snapshot is no trouble, nor is a volume whose option asks for fuzzy ones.
        """
        now = clock.monotonic()
        if snapshot.consistency == "crash" or not self._options.policy.freeze:
            self._crash_at = now
            self._status.troubles.end("fuzzy")
            return
        since = now - self._crash_at
        if since >= max(FUZZY_SECONDS_MAX, FUZZY_INTERVALS_MAX * self._throttle.interval):
            self._status.troubles.begin(
                "fuzzy", f"every snapshot of {since:.0f} s is fuzzy: {snapshot.cause}"
            )

    def _update_lacking(self) -> None:
        """Update the trouble about what the newest state does not contain."""
        lacking = self._watched.lacking.trouble if self._watched is not None else ""
        if lacking:
            self._status.troubles.begin(
                "files", f"its newest state is not all that is there: {lacking}"
            )
        else:
            self._status.troubles.end("files")

    # Verification

    def verify_live(
        self,
        seconds: float | None,
        capture: Callable[[], object],
        *,
        since_verified: bool,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Verification | None:
        """As `LiveVerification.run`; `capture` is called if the volume is watched."""

        def recapture() -> bool:
            if self._watched is None:
                return False
            capture()
            return True

        return self._verification.run(
            self._options.policy.exclude,
            seconds,
            recapture,
            since_verified=since_verified,
            cancelled=cancelled,
        )

    def verify_unused(self, head: SnapshotRecord) -> Result:
        """Compare all of the live directory, which nobody writes to, with its newest snapshot."""
        return self._verification.unused(head, self._options.policy.exclude)

    def repaired(self, names: Collection[bytes]) -> None:
        """Drop repaired files from the last verification."""
        self._verification.repaired(names)

    def verify_stored(self, snapshot: SnapshotRecord) -> Result:
        """Read every object of a snapshot."""
        verifier = Verifier(self._context.store, self._context.reader)
        return verifier.stored(snapshot.root)
