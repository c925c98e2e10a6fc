"""The volumes of one daemon: what the VolumeDriver protocol and the admin API call.

Lifecycle steps of one volume (mount, unmount, remove, a snapshot on request) run one at a time;
views and lists answer from memory at once, whatever is under way. dockerd gives up on a call after
30 s, so a step that takes longer continues after an answer, and the next call finds its result.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from diffkeeper import counters, failpoint, limits
from diffkeeper.errors import (
    BusyError,
    InvalidInputError,
    MountUnseenError,
    NotFoundError,
)
from diffkeeper.freeze.freezer import Freezer
from diffkeeper.fsio import durable, hostpath, mountinfo
from diffkeeper.fsio.room import Share
from diffkeeper.history.retention import Retention
from diffkeeper.history.retention_clock import RetentionClock
from diffkeeper.history.snapshots import History
from diffkeeper.history.trash import Trash
from diffkeeper.service import ebpf_features, restart, store_notes, thawing
from diffkeeper.service.captures import Captures
from diffkeeper.service.changes import Changes
from diffkeeper.service.history_service import HistoryService
from diffkeeper.service.idle_share import IdleShare
from diffkeeper.service.import_commit import remove_unfinished
from diffkeeper.service.provision import Provision
from diffkeeper.service.repairs import Repairs, refuse_mounted
from diffkeeper.service.replays import Replays
from diffkeeper.service.scheduler import Scheduler
from diffkeeper.service.store_care import StoreCare
from diffkeeper.service.stored_volumes import load
from diffkeeper.service.tasks import Tasks
from diffkeeper.service.threads import within
from diffkeeper.service.verifications import Verifying
from diffkeeper.service.workers import Workers
from diffkeeper.snapshot.chunker import Chunker
from diffkeeper.snapshot.context import CaptureContext
from diffkeeper.sources.ebpf.probe import Sources
from diffkeeper.store.store import Store
from diffkeeper.volumes.layout import Layout
from diffkeeper.volumes.lifecycle import Event
from diffkeeper.volumes.names import check_mount_id
from diffkeeper.volumes.registry import Registry, Slot
from diffkeeper.volumes.status import verify_report, volume_view

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diffkeeper.format.records import SnapshotRecord
    from diffkeeper.history.references import Reference
    from diffkeeper.messages.integrity import RepairReport, VerifyReport
    from diffkeeper.messages.machine import FeatureView
    from diffkeeper.messages.snapshots import SnapshotView
    from diffkeeper.messages.volumes import VolumeView
    from diffkeeper.volumes.retention_policy import Tiers
    from diffkeeper.volumes.volume import Volume

log = logging.getLogger(__name__)

UNMOUNT_SECONDS_MAX = 20.0
TRASH_SECONDS_DEFAULT = 7 * 86_400.0
T = TypeVar("T")


class VolumeService:
    """All volumes. Create it on the event loop; `start` loads the state, `stop` ends everything."""

    def __init__(
        self,
        state_dir: str,
        mount_dir: str,
        *,
        cgroup_root: str,
        proc_root: str,
        ebpf: str = "start",
        kernel_headers: str = "",
        retention: Tiers = (),
        trash_seconds: float = TRASH_SECONDS_DEFAULT,
        trash_max: Share = Share(fraction=limits.TRASH_MAX_FRACTION_DEFAULT),  # noqa: B008  # it is frozen
        store_max: Share = Share(),  # noqa: B008  # it is frozen
    ) -> None:
        self._state_dir = state_dir
        self._mount_dir = mount_dir
        self._cgroup_root = cgroup_root
        self._proc_root = proc_root
        self._ebpf = ebpf
        self._sources = Sources(kernel_headers, off=ebpf == "off")
        self._registry = Registry()
        self._loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pools = Workers()
        self._verifying = Verifying(partial(self._capture, freeze=False))
        self._tasks = Tasks()
        self._replays = Replays(self._tasks, self._pools, lambda v: self._scheduled.remove(v))
        self._context: CaptureContext | None = None
        self._captures: Captures | None = None
        self._scheduler: Scheduler | None = None
        self._store_care: StoreCare | None = None
        self._troubles: dict[str, str] = {}
        self._in_use: set[str] = set()  # volumes that were mounted when the last daemon ended
        self._retention = retention
        self._trash_seconds = trash_seconds
        self._trash_max = trash_max
        self._store_max = store_max
        self._history: HistoryService | None = None
        self._provision: Provision | None = None
        self._changes: Changes | None = None

    @property
    def history(self) -> HistoryService:
        """Histories and removed volumes; BusyError while the state loads."""
        return _made(self._history)

    @property
    def store_care(self) -> StoreCare:
        """Scrubs, maintenance and statistics of the store; BusyError while the state loads."""
        return _made(self._store_care)

    @property
    def provision(self) -> Provision:
        """Creating, importing and restoring volumes; BusyError while the state loads."""
        return _made(self._provision)

    @property
    def changes(self) -> Changes:
        """Changes of existing volumes; BusyError while the state loads."""
        return _made(self._changes)

    # Start and stop

    async def start(self) -> None:
        """Open the store, thaw what a killed daemon left frozen, take over mounted volumes."""
        try:
            await within(self._pools.steps, self._open)
        except BaseException as error:
            self._loaded.set_exception(error)
            self._loaded.exception()  # marks it as retrieved; callers of `ready` get it again
            raise
        self._loaded.set_result(None)
        self._tasks.spawn(self._scheduled.run())
        self._tasks.spawn(self._go_on())
        if self._ebpf == "start":
            self._tasks.spawn(self._load_sources())
        self._tasks.spawn(self._tidy())
        self._tasks.run_forever("counting", self.store_care.counting.run_forever)
        self._tasks.run_forever("history", self.history.run_forever)
        self.store_care.start()

    async def _load_sources(self) -> None:
        """Compile the eBPF programs, so that no mount waits for that."""
        await within(self._pools.long, self._sources.load)

    def _open(self) -> None:
        if not os.path.isdir(os.path.dirname(self._state_dir)):
            raise InvalidInputError(
                f"the state directory {self._state_dir} cannot be created: its parent is missing"
            )
        store_notes.refuse_missing(self._state_dir, self._mount_dir, self._proc_root)
        durable.make_directory(self._state_dir, 0o700)
        layout = Layout(self._state_dir, self._mount_dir)
        durable.make_directory(layout.volumes, 0o700)
        os.makedirs(self._mount_dir, mode=0o700, exist_ok=True)
        journal = layout.freeze_journal
        # Before the store is read, which takes time, or ends in a refusal.
        store = Store.open(
            layout.store,
            share=self._store_max,
            locked=partial(thawing.thaw_left, journal, self._cgroup_root, self._troubles),
        )
        store_notes.leave(self._state_dir, self._mount_dir)
        freezer = Freezer(self._cgroup_root, journal, self._proc_root)
        thawing.start(freezer, self._troubles)
        self._context = CaptureContext(
            store, freezer, Chunker(), self._cgroup_root, self._proc_root, self._sources
        )
        self._context.survey.mounts_in = mountinfo.locate(self._mount_dir)[:2]
        spare = IdleShare(self._proc_root)
        self._captures = Captures(self._context.survey, self._registry.volumes, spare)
        self._scheduler = Scheduler(self._captures, self._pools.captures)
        layout = replace(layout, on_host=hostpath.of(layout.volumes, self._proc_root).path)
        age = RetentionClock(store)
        retention = Retention(store, self._retention, age.now_ns)
        trash_max = self._trash_max.of(store.room.total_bytes)
        trash = Trash(store, layout, self._trash_seconds, age, trash_max)
        self._history = HistoryService(store, retention, trash, age, self._pools, self._registry)
        self._store_care = StoreCare(self._context, self._registry, self._history, self._pools.long)
        remove_unfinished(store)
        # A new store must not use the directories of an older one.
        store.reserve_ids(durable.highest_number(layout.volumes))
        self._in_use = load(self._context, layout, self._registry, trash)
        self._changes = Changes(self._registry, self._scheduler, self._pools.steps)
        self._provision = Provision(self._registry, self._context, layout, trash, self._pools)

    @property
    def _opened(self) -> CaptureContext:
        return _made(self._context)

    @property
    def _scheduled(self) -> Scheduler:
        return _made(self._scheduler)

    def _capture(self, volume: Volume, reason: str, *, freeze: bool = True) -> None:
        _made(self._captures).capture(volume, reason, freeze=freeze)

    async def _go_on(self) -> None:
        """Take over mounted volumes, then replay lost live directories."""
        slots = self._registry.slots()
        await self._take_over([slot for slot in slots if slot.volume.mounted])
        await self._replays.foresee(slots, self._in_use)

    async def _take_over(self, slots: list[Slot]) -> None:
        """Watch all before the first one is captured: it may be one of a group."""
        tasks = [self._tasks.spawn(self._watch(slot)) for slot in slots]
        await asyncio.gather(*tasks, return_exceptions=True)
        for slot in slots:
            async with slot.turn():
                if slot.volume.watched is not None:
                    self._scheduled.add(slot.volume)

    async def _watch(self, slot: Slot) -> None:
        async with slot.turn():
            if slot.volume.mounted and slot.volume.watched is None:
                await within(self._pools.steps, slot.volume.take_over)

    async def _tidy(self) -> None:
        """Count stored bytes, and delete what removed volumes left behind."""
        for slot in self._registry.slots():
            await within(self._pools.long, slot.volume.state.stored.count)
        async with self._registry.naming():  # no removed volume is restored meanwhile
            removed = await within(self._pools.steps, self.history.trash.leftovers)
        removed += [slot.volume.paths.removed for slot in self._registry.slots()]
        for path in removed:
            await within(self._pools.long, durable.remove_tree, path)

    async def stop(self) -> None:
        """End captures and close everything; mounts stay for the containers that have them."""
        if not self._loaded.done():
            self._loaded.set_exception(BusyError("the daemon is stopping"))
            self._loaded.exception()
        if self._store_care is not None:
            self._store_care.counting.stop()
        for slot in self._registry.slots():
            slot.volume.end()
        await self._tasks.stop()
        if self._scheduler is not None:
            await self._scheduler.stop()
        for slot in self._registry.slots():
            await within(self._pools.steps, slot.volume.close)
        if self._context is not None:
            await within(self._pools.steps, self._close, self._context)
        self._pools.stop()

    def _close(self, context: CaptureContext) -> None:
        self.store_care.stop()
        context.freezer.stop()
        context.sources.close()
        context.reader.close()
        context.store.close()

    async def ready(self) -> None:
        """Return once the state is loaded; raises the error that made loading fail."""
        await asyncio.shield(self._loaded)

    # Views

    def view(self, name: str) -> VolumeView:
        """One volume with its status; raises NotFoundError."""
        volume = self._registry.slot(name).volume
        return volume_view(volume, self.history.status(volume))

    def views(self) -> list[VolumeView]:
        """All volumes by name, without status."""
        return [volume_view(slot.volume) for _, slot in self._registry.by_name()]

    def mountpoint(self, name: str) -> str:
        """Mount point of a volume; "" while it is not mounted."""
        return self.view(name).mountpoint

    def features(self, *, look: bool) -> list[FeatureView]:
        """Supported eBPF features; `look`: also what is known without trying them."""
        return ebpf_features.of_daemon(self._sources, look=look)

    def ebpf_counts(self) -> dict[str, int]:
        """Counters of the loaded eBPF programs; empty while there are none."""
        return self._sources.counts()

    def troubles(self) -> list[str]:
        """Everything that needs a person's attention."""
        found = [*self._troubles.values(), *self._tasks.troubles()]
        found += self._history.troubles() if self._history is not None else []
        if self._store_care is not None:
            found += self._store_care.troubles()
        if self._scheduler is not None:
            found += self._scheduler.troubles()
        for name, slot in self._registry.by_name():
            found.extend(f"{name}: {text}" for text in slot.volume.status.troubles.texts())
        return found

    # Lifecycle

    async def mount(
        self, name: str, mount_id: str, seconds_max: float = limits.MOUNT_SECONDS_MAX
    ) -> str:
        """Mount for one container; the path to bind. BusyError when a replay takes longer."""
        check_mount_id(mount_id)
        slot = self._registry.slot(name)
        await self._replays.joined(slot, seconds_max)
        async with slot.turn():
            self._registry.require(name, slot)
            try:
                await within(self._pools.steps, slot.volume.mount, mount_id)
            except MountUnseenError:
                restart.end(self._state_dir)
                raise
            self._scheduled.add(slot.volume)
        recovery = slot.volume.status.recovery
        log.info(
            "mounted",
            extra={
                "volume": name,
                "mounts": sum(slot.volume.state.record.mounts.values()),
                "recovery": recovery.kind if recovery else "",
                "ms": recovery.milliseconds if recovery else 0,
            },
        )
        return slot.volume.mountpoint

    async def unmount(self, name: str, mount_id: str) -> None:
        """Unmount for one container; the last one captures and verifies. Unknown ids succeed."""
        slot = self._registry.get(name)
        if slot is None:
            return
        task = self._tasks.spawn(self._unmount(slot, mount_id))
        try:
            await asyncio.wait_for(asyncio.shield(task), UNMOUNT_SECONDS_MAX)
        except TimeoutError:
            log.warning("unmount_continues", extra={"volume": name})

    async def _unmount(self, slot: Slot, mount_id: str) -> None:
        """The final capture runs without the step's lock: a Mount meanwhile cancels it."""
        volume = slot.volume
        async with slot.turn():
            last = await within(self._pools.steps, volume.mounts.release, mount_id)
            if not last:
                return
            await self._scheduled.remove(volume)
            failpoint.hit("unmount.before_capture")
            await within(self._pools.steps, self._verifying.begin, volume)
        async with slot.final_capture():
            await within(self._pools.final_captures, self._verifying.final_capture, volume)
            async with slot.turn():
                if not volume.mounts.leaving or self._registry.get(volume.name) is not slot:
                    return
                await within(self._pools.steps, volume.released)
                await within(self._pools.steps, volume.close)
        log.info("unmounted", extra={"volume": volume.name})

    async def remove(self, name: str) -> None:
        """Take a last snapshot, free the name, delete the live directory; the rest is trash.

        The live directory stays where its state could not be captured at one instant. BusyError
        when this takes longer than dockerd waits: it continues, and Create waits for its end.
        """
        slot = self._registry.slot(name)
        removal = slot.join_removal(lambda: self._tasks.spawn(self._removed(name, slot)))
        try:
            await asyncio.wait_for(asyncio.shield(removal), limits.REMOVE_SECONDS_MAX)
        except TimeoutError:
            raise BusyError(
                f"volume {name} is being removed; this goes on, and its name is free when it is"
                " listed no more"
            ) from None

    async def _removed(self, name: str, slot: Slot) -> None:
        async with slot.final_capture(), slot.turn("it is being removed"):
            self._registry.require(name, slot)
            await within(self._pools.steps, self._refuse_in_use, slot.volume)
            slot.replace_live()
            await self._scheduled.remove(slot.volume)
            removed = await within(self._pools.final_captures, self._remove, slot.volume)
            self._registry.drop(name)
        counters.forget(name)
        log.info("removed", extra={"volume": name, "id": slot.volume.state.record.id})
        if removed is not None:
            self._tasks.spawn(within(self._pools.long, durable.remove_tree, removed))

    def _refuse_in_use(self, volume: Volume) -> None:
        refusal, life = f"volume {volume.name} is in use", volume.life
        life.require(Event.REMOVE, refusal, mounted=life.in_use())

    def _remove(self, volume: Volume) -> str | None:
        capture = partial(self._capture, volume, "remove", freeze=False)
        return self.history.trash.remove(volume, capture)

    # Captures

    async def snapshot(self, name: str) -> SnapshotView:
        """Take a snapshot now; the newest one if nothing changed. Durable when it returns."""
        slot = self._registry.slot(name)
        head = await self._newest(slot)
        return await within(self._pools.queries, History(self._opened.store).view, head)

    async def _newest(self, slot: Slot) -> SnapshotRecord:
        """The newest snapshot, after a capture; for a mounted volume without the step's lock."""
        volume = slot.volume
        first = volume.state.head is None
        if volume.watched is not None:
            return await self._pools.captures.run(first, self._snapshot, volume)
        async with slot.turn("a snapshot of it is being taken"):
            self._registry.require(volume.name, slot)
            return await self._pools.captures.run(first, self._snapshot, volume)

    def _snapshot(self, volume: Volume) -> SnapshotRecord:
        if volume.watched is not None:
            self._capture(volume, "manual")
        elif volume.present:
            volume.open()
            try:
                self._capture(volume, "manual")
            finally:
                volume.close()
        head = volume.state.head
        if head is None:
            raise NotFoundError(f"volume {volume.name} has no snapshot")
        return head

    async def verify(self, name: str, snapshot: Reference | None) -> VerifyReport:
        """Verify the live directory and the newest snapshot's objects, or one named snapshot's."""
        slot = self._registry.slot(name)
        volume = slot.volume
        if snapshot is not None:
            history = History(self._opened.store)
            record = await within(
                self._pools.queries, history.resolve, volume.state.record, snapshot
            )
            result = await within(self._pools.long, volume.verify_stored, record)
            return verify_report(name, record.seq, record.root, result)
        head = await self._newest(slot)
        before = slot.replaced
        return await within(
            self._pools.long, self._verifying.report, volume, head, lambda: slot.replaced != before
        )

    async def repair(
        self, name: str, paths: Sequence[bytes] | None, *, dry_run: bool
    ) -> RepairReport:
        """Repair damaged files, see `Repairs.run`."""
        slot = self._registry.slot(name)
        async with slot.final_capture(), slot.turn("it is being repaired"):
            self._registry.require(name, slot)
            slot.replace_live()
            await within(self._pools.steps, refuse_mounted, slot.volume)
            await self._scheduled.remove(slot.volume)
            repairs = Repairs(self._opened.store, self.history.retention, self._snapshot)
            return await within(self._pools.long, repairs.run, slot.volume, paths, dry_run=dry_run)


def _made(part: T | None) -> T:
    """A part of the service; BusyError before it is created."""
    if part is None:
        raise BusyError("the daemon is still loading its state")
    return part
