"""The schedule: when which volumes are captured.

One task checks all volumes without hints, as most are most of the time; a capture is a task of its
own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from diffkeeper import clock
from diffkeeper.errors import DiffKeeperError
from diffkeeper.freeze.writers import Target, Writers
from diffkeeper.service.threads import within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from diffkeeper.service.capture_slots import CaptureSlots
    from diffkeeper.service.captures import Captures, ConsistencyGroup
    from diffkeeper.volumes.volume import Volume

log = logging.getLogger(__name__)

QUIET_LOOK_SECONDS = 5.0
SCHEDULE_RETRY_SECONDS = 1.0  # after a defect in the work for all volumes
QUIET_STEP_SECONDS = 1.0
MOUNT_LOOKS_SECONDS = (1.0, 5.0, 20.0, 60.0)  # waits before each check for its container
Found = dict[Target, Writers]


@dataclass(slots=True)
class _Watch:
    """One mounted volume. looked: when its processes were last asked, on the monotonic clock; news:
    they showed a change that was not hinted; fresh: nothing was scanned since it was mounted.
    """

    task: asyncio.Task[None] | None = None
    asked: float = float("-inf")
    news: bool = False
    fresh: bool = True


class Scheduler:
    """Captures the mounted volumes of one daemon; on the event loop, with threads for what
    blocks.
    """

    def __init__(self, captures: Captures, turns: CaptureSlots) -> None:
        self._captures = captures
        self._turns = turns
        self._pool = turns.pool
        self._watches: dict[Volume, _Watch] = {}
        self._changed = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None
        self._owed: set[Volume] = set()  # volumes whose processes are to be asked
        self._expecting: asyncio.Task[None] | None = None
        self._mounts = 0  # number of calls of `add`
        self._lock = asyncio.Lock()
        self._throttled: Sequence[ConsistencyGroup] = ()  # groups whose intervals are set
        self._troubles: dict[str, str] = {}  # last error by task

    def troubles(self) -> list[str]:
        """Errors of the work for all volumes; each is tried again."""
        return list(self._troubles.values())

    @contextlib.contextmanager
    def _telling(self, work: str) -> Iterator[None]:
        """A defect in this work is a trouble until it succeeds, and ends nothing."""
        try:
            yield
        except Exception as error:
            text = f"{work} failed, and is tried again: {error!r}"
            if self._troubles.get(work) != text:
                log.exception("schedule_failed", extra={"work": work, "error": str(error)})
            self._troubles[work] = text
        else:
            self._troubles.pop(work, None)

    def add(self, volume: Volume) -> None:
        """Capture the volume from now on, whenever it is due and something changed."""
        if volume not in self._watches:
            volume.throttle.schedule(clock.monotonic())
            self._watches[volume] = _Watch()
            self._changed.set()
        self._mounts += 1
        if self._expecting is None or self._expecting.done():
            self._expecting = asyncio.create_task(self._expect())

    async def remove(self, volume: Volume) -> None:
        """Begin no more captures of the volume. One on a thread continues to its end."""
        watch = self._watches.pop(volume, None)
        if watch is not None and watch.task is not None:
            watch.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch.task

    async def stop(self) -> None:
        """Remove all volumes."""
        for task in (self._asking, self._expecting):
            if task is not None:
                task.cancel()
        for volume in list(self._watches):
            await self.remove(volume)

    async def run(self) -> None:
        """Begin captures that are due; never returns. No failure ends it, or affects more than one
        volume.
        """
        while True:
            self._changed.clear()
            following: float | None = clock.monotonic() + SCHEDULE_RETRY_SECONDS
            with self._telling("beginning captures"):
                self._begin(clock.monotonic())
                following = min((v.throttle.due for v in self._idle()), default=None)
            await self._until(following)

    def _begin(self, now: float) -> None:
        due = [volume for volume in self._idle() if volume.throttle.due <= now]
        quiet = {volume for volume in due if self._is_quiet(volume)}
        for volume in due:
            if volume not in quiet:
                self._watches[volume].task = asyncio.create_task(self._capture_due(volume))
        self._pass(now, list(quiet))

    def _idle(self) -> list[Volume]:
        return [volume for volume, watch in self._watches.items() if watch.task is None]

    def _is_quiet(self, volume: Volume) -> bool:
        if self._watches[volume].news:
            return False
        return _answer(volume, volume.quiet, unsure=False)

    def _pass(self, now: float, quiet: list[Volume]) -> None:
        """Handle volumes without hints. Their processes are asked, too: at each interval if the
        source needs that, otherwise from time to time.

        At the same moments for all volumes, since one survey serves all.
        """
        for volume in quiet:
            watch = self._watches[volume]
            if not volume.trusting or _turn(now) != _turn(watch.asked):
                watch.asked = now
                self._owed.add(volume)
            volume.throttle.schedule(
                _shared(now + volume.throttle.effective, volume.throttle.effective)
            )
        if self._owed and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._ask_processes())

    async def _until(self, moment: float | None) -> None:
        left = None if moment is None else max(0.0, moment - clock.monotonic())
        # `wait_for` loses a cancellation that coincides with the end of what it waits for
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await self._changed.wait()

    async def _ask_processes(self) -> None:
        """Ask processes about volumes without hints; one that changed is due at once.

        Continues until no volume is waiting: a check that takes long delays no other.
        """
        while self._owed:
            volumes, self._owed = list(self._owed), set()
            changed: list[Volume] = []
            with self._telling("looking at the processes of quiet volumes"):
                found = await self._writers(quiet=True)
                changed = await within(self._pool, self._ask, volumes, found)
            for volume in changed:
                if volume in self._watches:
                    self._watches[volume].news = True
                    volume.throttle.schedule(clock.monotonic())
                    self._changed.set()

    async def _expect(self) -> None:
        """Watch the containers of new mounts start, independent of the volumes' intervals.

        A mount whose container was observed, and is gone, is no use of a volume any more.
        """
        step = seen = 0
        while step < len(MOUNT_LOOKS_SECONDS) and any(v.mounts.expecting for v in self._watches):
            step, seen = (0 if seen != self._mounts else step), self._mounts
            await asyncio.sleep(MOUNT_LOOKS_SECONDS[step])
            step += 1
            with self._telling("looking for the containers of new mounts"):
                await within(self._pool, self._see)

    def _see(self) -> None:
        expecting = [v for v in list(self._watches) if v.mounts.expecting]
        watched = [(v, s.target) for v in expecting if (s := v.watched) is not None]
        found = self._captures.writers()
        for volume, target in watched:
            volume.mounts.see(found.get(target, Writers()))

    def _ask(self, volumes: list[Volume], found: Found) -> list[Volume]:
        """The volumes that changed; the others keep their intervals, in their groups as of now."""
        with self._captures.one_survey():
            changed = [
                volume
                for volume in volumes
                if (s := volume.watched) is not None
                and _answer(
                    volume, partial(volume.pending, found.get(s.target, Writers())), unsure=True
                )
            ]
        groups = self._captures.groups(found)
        if groups is not self._throttled:
            self._throttled = groups
            for group in groups:
                if not any(volume in changed for volume in group.volumes):
                    self._captures.apply_throttle(group)
        return changed

    async def _capture_due(self, volume: Volume) -> None:
        """Run a capture that is due, if anything changed; an error is reported, and it is tried
        again.
        """
        started = clock.monotonic()
        watch = self._watches[volume]
        watch.news = False
        try:
            await self._tick(volume, watch)
            volume.status.troubles.end("turn")
        except (DiffKeeperError, OSError) as error:
            log.error("capture_failed", extra={"volume": volume.name, "error": str(error)})
        except Exception as error:
            # A defect must not end the captures of a volume: it is reported, and tried again.
            text = f"its turn failed, and comes again: {error!r}"
            volume.status.troubles.begin("turn", text)
            log.exception("capture_failed", extra={"volume": volume.name, "error": str(error)})
        finally:
            volume.throttle.rest(started)
            if volume in self._watches:
                self._watches[volume].task = None
                self._watches[volume].asked = started
            self._changed.set()

    async def _tick(self, volume: Volume, watch: _Watch) -> None:
        """Capture the volume's group, unless that is under way."""
        found = await self._writers()
        group = await within(self._pool, self._captures.together, volume, found)
        started, throttle = clock.monotonic(), volume.throttle
        if volume.watched is None or throttle.busy or throttle.due > started:
            return
        idle = [member for member in group.volumes if not member.throttle.busy]
        for member in idle:
            member.throttle.begin()
        try:
            first = any(member.state.head is None for member in group.volumes)
            await self._turns.run(first, self._capture, volume, watch, group, found)
        finally:
            for member in idle:
                member.throttle.end(started)

    def _capture(
        self, volume: Volume, watch: _Watch, group: ConsistencyGroup, found: Found
    ) -> None:
        # All are asked: each records who was seen to have it mounted.
        pending = [v.pending(found.get(s.target, Writers())) for v, s in group.watched()]
        if any(pending):
            self._captures.capture(volume, "mount" if watch.fresh else "interval")
        else:
            self._captures.apply_throttle(group)
        for member in group.volumes:
            if (watched := self._watches.get(member)) is not None:
                watched.fresh = False

    async def _writers(self, *, quiet: bool = False) -> Found:
        """Writers of all mounted volumes, from a survey that captures share."""
        async with self._lock:
            return await within(self._pool, self._captures.writers, quiet=quiet)


def _answer(volume: Volume, ask: Callable[[], bool], *, unsure: bool) -> bool:
    """Answer of a volume to a question; `unsure` if that fails: then its capture has to find out.

    Expected errors happen in the capture, too, and are reported then.
    """
    try:
        answer = ask()
    except (DiffKeeperError, OSError):
        return unsure
    except Exception as error:
        text = f"whether it changed could not be told: {error!r}"
        if volume.status.troubles.get("look") != text:
            log.exception("look_failed", extra={"volume": volume.name, "error": str(error)})
        volume.status.troubles.begin("look", text)
        return unsure
    volume.status.troubles.end("look")
    return answer


def _turn(moment: float) -> float:
    """Number of the moment's slot in the schedule for volumes without hints."""
    return moment // QUIET_LOOK_SECONDS


def _shared(moment: float, interval: float) -> float:
    """A moment at or before this one that such volumes share: one wake-up serves them all."""
    step = min(QUIET_STEP_SECONDS, interval)
    return moment // step * step
