"""Work that goes on for ever does, and what ends it shows meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from diffkeeper.service.tasks import Tasks

if TYPE_CHECKING:
    import pytest


async def test_work_that_fails_is_told_and_begun_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("diffkeeper.service.tasks.BACKGROUND_RETRY_SECONDS", 0.05)
    begun = 0
    again = asyncio.Event()

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise KeyError("a defect")
        again.set()
        await asyncio.sleep(60)

    tasks = Tasks()
    tasks.run_forever("work", work)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert "a defect" in tasks.troubles()[0]
    await asyncio.wait_for(again.wait(), 10)
    assert tasks.troubles() == []
    assert "background_failed" in caplog.text
    await tasks.stop()
