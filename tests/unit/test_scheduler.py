"""What fails for one volume, or once, neither ends the scheduler's work nor goes untold."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import pytest

from diffkeeper.service.capture_slots import CaptureSlots
from diffkeeper.service.captures import Captures
from diffkeeper.service.idle_share import IdleShare
from diffkeeper.service.scheduler import Scheduler
from diffkeeper.volumes.throttle import Throttle
from diffkeeper.volumes.volume_status import VolumeStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from diffkeeper.freeze.writers import Survey, Target, Writers

SECONDS_MAX = 10.0


class Processes:
    """A survey that sees nobody, or has a defect."""

    def __init__(self) -> None:
        self.defect = False
        self.passes = 0

    def recent(
        self, targets: list[Target], written: Target | None = None, *, quiet: bool = False
    ) -> dict[Target, Writers]:
        self.passes += 1
        if self.defect:
            raise RuntimeError("a defect of the survey")
        return {}

    def one_survey(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class Quiet:
    """A volume that nothing changes in; `defect` is raised when it is asked."""

    def __init__(self, name: str, defect: Exception | None = None) -> None:
        self.name, self.defect, self.looks = name, defect, 0
        self.paced, self.status = Throttle(0.01), VolumeStatus({})
        self.watched, self.expecting = None, False
        self.unpaced = False
        self.trusting = True

    @property
    def throttle(self) -> Throttle:
        if self.unpaced:
            raise RuntimeError("a defect of the throttle")
        return self.paced

    def quiet(self) -> bool:
        self.looks += 1
        if self.defect is not None:
            raise self.defect
        return True


class Bench:
    """A scheduler that runs, with these volumes."""

    def __init__(self, *volumes: Quiet) -> None:
        self.processes = Processes()
        captures = Captures(cast("Survey", self.processes), list, IdleShare())
        self.pool = ThreadPoolExecutor(2)
        self.scheduler = Scheduler(captures, CaptureSlots(self.pool))
        for volume in volumes:
            self.scheduler.add(cast("Any", volume))
        self.task = asyncio.create_task(self.scheduler.run())

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS_MAX):
            while not reached():
                assert not self.task.done(), "the scheduler ended"
                await asyncio.sleep(0.005)

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.scheduler.stop()
        self.pool.shutdown()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[set[str]]:
    """Defects are logged here; which ones, for the test to look at."""
    names: set[str] = set()
    handler = logging.Handler()
    handler.emit = lambda record: names.add(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("diffkeeper").addHandler(handler)
    yield names
    logging.getLogger("diffkeeper").removeHandler(handler)
    caplog.clear()


@pytest.mark.parametrize("defect", [KeyError(7), IndexError(), RecursionError(), OSError()])
def test_a_defect_of_one_volume_holds_up_no_other(defect: Exception, logged: set[str]) -> None:
    async def life() -> None:
        bad, good = Quiet("bad", defect), Quiet("good")
        bench = Bench(bad, good)
        await bench.until(lambda: bad.looks >= 3 and good.looks >= 3)
        if not isinstance(defect, OSError):  # which its capture meets, and tells
            assert "look_failed" in logged
            assert repr(defect) in (bad.status.troubles.get("look") or "")
        assert not good.status.troubles.texts()
        bad.defect = None
        await bench.until(lambda: not bad.status.troubles.texts())
        await bench.end()

    asyncio.run(life())


@pytest.mark.parametrize("steps", range(4))
def test_it_ends_also_when_something_changes_in_that_moment(steps: int) -> None:
    """However far that has come in the loop. The daemon's stop waits for it."""

    async def life() -> None:
        bench = Bench(Quiet("one"))
        await asyncio.sleep(0.01)
        bench.scheduler._changed.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        bench.task.cancel()
        done, _ = await asyncio.wait([bench.task], timeout=SECONDS_MAX)
        assert done
        await bench.end()

    asyncio.run(life())


def test_a_defect_of_the_loop_itself_is_told_and_ends_nothing(
    logged: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffkeeper.service.scheduler.SCHEDULE_RETRY_SECONDS", 0.01)

    async def life() -> None:
        volume = Quiet("volume")
        bench = Bench(volume)
        await bench.until(lambda: volume.looks >= 1)
        volume.unpaced = True
        await bench.until(lambda: any("throttle" in text for text in bench.scheduler.troubles()))
        volume.unpaced = False
        before = volume.looks
        await bench.until(lambda: volume.looks > before and not bench.scheduler.troubles())
        await bench.end()
        assert "schedule_failed" in logged

    asyncio.run(life())


def test_a_survey_that_fails_is_told_until_one_succeeds(
    logged: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffkeeper.service.scheduler.QUIET_LOOK_SECONDS", 0.01)

    async def life() -> None:
        bench = Bench(Quiet("volume"))
        bench.processes.defect = True
        await bench.until(lambda: any("survey" in text for text in bench.scheduler.troubles()))
        bench.processes.defect = False
        await bench.until(lambda: not bench.scheduler.troubles())
        await bench.end()

    asyncio.run(life())


def test_one_look_at_processes_serves_all_quiet_volumes(logged: set[str]) -> None:
    """Where the source needs one at each interval, too: idle ones cost no turn of their own."""

    async def life() -> None:
        volumes = [Quiet(f"{number}") for number in range(50)]
        for volume in volumes:
            volume.trusting = False
        bench = Bench(*volumes)
        await bench.until(lambda: all(volume.looks >= 20 for volume in volumes))
        await bench.end()
        assert bench.processes.passes <= max(volume.looks for volume in volumes) + 1

    asyncio.run(life())


def test_groups_are_looked_up_beside_the_event_loop(
    logged: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are made of all volumes, and the loop answers the engine."""
    threads = []
    together = Captures.together

    def looked_up(captures: Captures, volume: Any, found: Any) -> Any:
        threads.append(threading.current_thread())
        return together(captures, volume, found)

    monkeypatch.setattr(Captures, "together", looked_up)

    async def life() -> None:
        bench = Bench(Quiet("volume", OSError()))
        await bench.until(lambda: bool(threads))
        await bench.end()

    asyncio.run(life())
    assert threading.main_thread() not in threads
