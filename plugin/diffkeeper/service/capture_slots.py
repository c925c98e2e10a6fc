"""Which captures may run at once, so that long ones of some volumes do not delay others.

The duration of a capture is unknown before its end: the first one of a volume reads everything, and
so does one after a power cut. On the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from diffkeeper import limits
from diffkeeper.service.threads import begun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import ThreadPoolExecutor

FIRST_CAPTURES_MAX = 2  # of these, first captures of volumes
LONG_CAPTURE_SECONDS = 10.0  # after which a capture gives its slot to others

P = ParamSpec("P")
T = TypeVar("T")


class CaptureSlots:
    """Slots for the captures of one daemon, on threads of `pool`, which has some for short
    questions, too.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._slots = asyncio.Semaphore(limits.CAPTURES_MAX)
        self._first = asyncio.Semaphore(FIRST_CAPTURES_MAX)
        self._long = 0

    @property
    def pool(self) -> ThreadPoolExecutor:
        """Its threads, for short questions."""
        return self._pool

    async def run(
        self, first: bool, function: Callable[P, T], /, *arguments: P.args, **named: P.kwargs
    ) -> T:
        """Result or exception of the function, called when a slot is free.

        first: some volume has no snapshot yet; such captures never take all slots. A capture that
        takes long gives up its slot, as long as few do.
        """
        async with contextlib.AsyncExitStack() as held:
            if first:
                await held.enter_async_context(self._first)
            await held.enter_async_context(self._slots)
            work = begun(self._pool, function, *arguments, **named)
            try:
                await asyncio.wait({work}, timeout=LONG_CAPTURE_SECONDS)
                if work.done() or self._long >= limits.LONG_CAPTURES_MAX:
                    return await work
                with self._beside():
                    await held.aclose()
                    return await work
            finally:
                work.cancel()  # it has ended; or the caller was cancelled, and it need not begin

    @contextlib.contextmanager
    def _beside(self) -> Iterator[None]:
        self._long += 1
        try:
            yield
        finally:
            self._long -= 1
