"""When which volumes are captured: one loop for each that is mounted, one capture for a group."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from diffkeeper import clock, limits
from diffkeeper.errors import DiffKeeperError
from diffkeeper.freeze.writers import Target, Writers

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from diffkeeper.volumes.captures import Captures, Team
    from diffkeeper.volumes.volume import Volume

log = logging.getLogger(__name__)
Found = dict[Target, Writers]


class Scheduler:
    """The loops of one daemon; runs in the event loop, works in the threads of `pool`."""

    def __init__(self, captures: Captures, pool: ThreadPoolExecutor) -> None:
        self._captures = captures
        self._pool = pool
        self._surveyed: tuple[float, Found] = (0.0, {})
        self._lock = asyncio.Lock()

    async def run(self, volume: Volume) -> None:
        """Capture a mounted volume whenever its pace says so and something changed; for ever."""
        pace, looked = volume.pace, float("-inf")
        pace.due, volume.fresh = clock.monotonic(), True
        while True:
            await asyncio.sleep(max(0.0, pace.due - clock.monotonic()))
            if pace.due > clock.monotonic():
                continue  # it was captured meanwhile, with another one
            started = clock.monotonic()
            try:
                # The processes are looked at in the same moments for all volumes, which then share
                # the survey.
                if _turn(started) == _turn(looked) and volume.quiet():
                    pace.due = _shared(started + pace.effective, pace.effective)
                    continue
                await self._tick(volume)
                looked = started
            except (DiffKeeperError, OSError) as error:
                log.error("capture_failed", extra={"volume": volume.name, "error": str(error)})
            except Exception as error:
                # A defect must not end the captures of a volume: it shows, and is tried again.
                log.exception("capture_failed", extra={"volume": volume.name, "error": str(error)})
            pace.due = max(pace.due, started + pace.effective)

    async def _tick(self, volume: Volume) -> None:
        """Capture what is written together with the volume, unless that is under way."""
        found = await self._writers()
        started, pace = clock.monotonic(), volume.pace
        if volume.snapshotter is None or pace.busy or pace.due > started:
            return
        team = self._captures.together(volume, found)
        idle = [member for member in team.volumes if not member.pace.busy]
        for member in idle:
            member.pace.busy = True
        try:
            await asyncio.get_running_loop().run_in_executor(
                self._pool, self._capture, volume, team, found
            )
        finally:
            for member in idle:
                member.pace.busy = False
                member.pace.due = started + member.pace.effective

    def _capture(self, volume: Volume, team: Team, found: Found) -> None:
        # All are asked: each notes who was seen to have it mounted.
        pending = [v.pending(found.get(s.target, Writers())) for v, s in team.watched()]
        if any(pending):
            self._captures.capture(volume, "mount" if volume.fresh else "interval")
        else:
            team.settle()
        for member in team.volumes:
            member.fresh = False

    async def _writers(self) -> Found:
        """Writers of all mounted volumes, from one survey that several volumes share."""
        async with self._lock:
            at, found = self._surveyed
            fresh = clock.monotonic() - at < limits.SURVEY_SECONDS_MAX
            if not (fresh and all(target in found for target in self._captures.targets())):
                loop = asyncio.get_running_loop()
                found = await loop.run_in_executor(self._pool, self._captures.writers)
                self._surveyed = (clock.monotonic(), found)
            return found


def _turn(moment: float) -> float:
    """Which one of the looks at processes that a quiet volume gets, too, is due at the moment."""
    return moment // limits.QUIET_LOOK_SECONDS


def _shared(moment: float, interval: float) -> float:
    """A moment at or before this one that quiet volumes share: one wake-up serves them all."""
    step = min(limits.SURVEY_SECONDS_MAX, interval / 4)
    return moment // step * step
