"""Long captures hold up no others; of first ones there are never too many."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from diffkeeper import limits
from diffkeeper.service.capture_slots import FIRST_CAPTURES_MAX, CaptureSlots
from diffkeeper.service.workers import CAPTURE_THREADS
from tests.support.gate import SECONDS_MAX, WorkGate

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def gate() -> Iterator[WorkGate]:
    made = WorkGate()
    yield made
    made.opened.set()


@pytest.fixture
def turns() -> Iterator[CaptureSlots]:
    with ThreadPoolExecutor(CAPTURE_THREADS) as pool:
        yield CaptureSlots(pool)


def begun(
    turns: CaptureSlots, gate: WorkGate, count: int, *, first: bool
) -> list[asyncio.Task[None]]:
    work = [turns.run(first, gate.pass_through) for _ in range(count)]
    return [asyncio.create_task(each) for each in work]


async def inside(gate: WorkGate) -> int:
    """How many more have come in, and no more follow."""
    found = 0
    while await asyncio.to_thread(gate.inside.acquire, timeout=SECONDS_MAX if not found else 0.2):
        found += 1
    return found


async def ended(gate: WorkGate, tasks: list[asyncio.Task[None]]) -> None:
    gate.opened.set()
    await asyncio.wait_for(asyncio.gather(*tasks), SECONDS_MAX)


async def test_first_ones_leave_half_of_the_places(turns: CaptureSlots, gate: WorkGate) -> None:
    tasks = begun(turns, gate, 10, first=True)
    assert await inside(gate) == FIRST_CAPTURES_MAX == limits.CAPTURES_MAX // 2
    tasks += begun(turns, gate, 10, first=False)
    assert await inside(gate) == limits.CAPTURES_MAX - FIRST_CAPTURES_MAX
    await ended(gate, tasks)


@pytest.mark.parametrize("first", [True, False])
async def test_long_ones_leave_their_places(
    turns: CaptureSlots, gate: WorkGate, monkeypatch: pytest.MonkeyPatch, *, first: bool
) -> None:
    monkeypatch.setattr("diffkeeper.service.capture_slots.LONG_CAPTURE_SECONDS", 0.02)
    tasks = begun(turns, gate, limits.LONG_CAPTURES_MAX, first=first)
    assert await inside(gate) == limits.LONG_CAPTURES_MAX
    await asyncio.sleep(0.1)
    tasks += begun(turns, gate, 10, first=False)
    assert await inside(gate) == limits.CAPTURES_MAX, "or there is no bound of them"
    await ended(gate, tasks)
    assert await turns.run(first, lambda: 5) == 5


async def test_what_nobody_waits_for_gives_its_place_back(
    turns: CaptureSlots, gate: WorkGate
) -> None:
    tasks = begun(turns, gate, limits.CAPTURES_MAX + 1, first=False)
    assert await inside(gate) == limits.CAPTURES_MAX
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    tasks = begun(turns, gate, 1, first=True)
    assert await inside(gate) == 1
    await ended(gate, tasks)
