"""What fails for one volume, or once, neither ends the scheduler's work nor goes untold."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import pytest

from diffkeeper import limits
from diffkeeper.volumes.captures import Captures
from diffkeeper.volumes.pace import Pace
from diffkeeper.volumes.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from diffkeeper.freeze.writers import Survey, Target, Writers

SECONDS_MAX = 10.0


class Processes:
    """A survey that sees nobody, or has a defect."""

    def __init__(self) -> None:
        self.defect = False
        self.passes = 0

    def recent(self, targets: list[Target], written: Target | None = None) -> dict[Target, Writers]:
        self.passes += 1
        if self.defect:
            raise RuntimeError("a defect of the survey")
        return {}


class Quiet:
    """A volume that nothing changes in; `defect` is raised when it is asked."""

    def __init__(self, name: str, defect: Exception | None = None) -> None:
        self.name, self.defect, self.looks = name, defect, 0
        self.paced, self.troubles = Pace(0.01, 0.01), dict[str, str]()
        self.snapshotter, self.expecting, self.fresh = None, False, False
        self.unpaced = False

    @property
    def pace(self) -> Pace:
        if self.unpaced:
            raise RuntimeError("a defect of the pace")
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
        captures = Captures(cast("Survey", self.processes), list)
        self.pool = ThreadPoolExecutor(2)
        self.scheduler = Scheduler(captures, self.pool)
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
def told(caplog: pytest.LogCaptureFixture) -> Iterator[set[str]]:
    """Defects are logged here; which ones, for the test to look at."""
    names: set[str] = set()
    handler = logging.Handler()
    handler.emit = lambda record: names.add(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("diffkeeper").addHandler(handler)
    yield names
    logging.getLogger("diffkeeper").removeHandler(handler)
    caplog.clear()


@pytest.mark.parametrize("defect", [KeyError(7), IndexError(), RecursionError(), OSError()])
def test_a_defect_of_one_volume_holds_up_no_other(defect: Exception, told: set[str]) -> None:
    async def life() -> None:
        bad, good = Quiet("bad", defect), Quiet("good")
        bench = Bench(bad, good)
        await bench.until(lambda: bad.looks >= 3 and good.looks >= 3)
        if not isinstance(defect, OSError):  # which its capture meets, and tells
            assert "look_failed" in told
            assert repr(defect) in bad.troubles["look"]
        assert not good.troubles
        bad.defect = None
        await bench.until(lambda: not bad.troubles)
        await bench.end()

    asyncio.run(life())


def test_a_defect_of_the_loop_itself_is_told_and_ends_nothing(
    told: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SCHEDULE_RETRY_SECONDS", 0.01)

    async def life() -> None:
        volume = Quiet("volume")
        bench = Bench(volume)
        await bench.until(lambda: volume.looks >= 1)
        volume.unpaced = True
        await bench.until(lambda: any("pace" in text for text in bench.scheduler.troubles()))
        volume.unpaced = False
        before = volume.looks
        await bench.until(lambda: volume.looks > before and not bench.scheduler.troubles())
        await bench.end()
        assert "schedule_failed" in told

    asyncio.run(life())


def test_a_survey_that_fails_is_told_until_one_succeeds(
    told: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "QUIET_LOOK_SECONDS", 0.01)

    async def life() -> None:
        bench = Bench(Quiet("volume"))
        bench.processes.defect = True
        await bench.until(lambda: any("survey" in text for text in bench.scheduler.troubles()))
        bench.processes.defect = False
        await bench.until(lambda: not bench.scheduler.troubles())
        await bench.end()

    asyncio.run(life())


def test_groups_are_looked_up_beside_the_event_loop(
    told: set[str], monkeypatch: pytest.MonkeyPatch
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
