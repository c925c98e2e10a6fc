"""Tasks of the event loop that no caller waits for; their failures are reported."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

log = logging.getLogger(__name__)

BACKGROUND_RETRY_SECONDS = 30.0


class Tasks:
    """The tasks of one daemon. Only for the event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: dict[str, str] = {}

    def spawn(self, step: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Start a step that ends by itself."""
        task = asyncio.create_task(step)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def run_forever(self, work: str, step: Callable[[], Awaitable[None]]) -> None:
        """Start work that never ends: after a defect it is started again."""
        self.spawn(self._endless(work, step))

    async def _endless(self, work: str, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
            except Exception as error:
                self._failed[work] = f"{work} failed, and is begun again: {error!r}"
                log.exception("background_failed", extra={"error": str(error)})
            await asyncio.sleep(BACKGROUND_RETRY_SECONDS)
            self._failed.pop(work, None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("background_failed", extra={"error": str(task.exception())})

    def troubles(self) -> list[str]:
        """Work that failed and is not started again yet."""
        return list(self._failed.values())

    async def stop(self) -> None:
        """Cancel all tasks."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
