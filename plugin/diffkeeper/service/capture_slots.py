"""Which captures may run at once, so that long ones of some volumes hold up no others.

How long a capture takes nobody knows before its end: the first one of a volume reads all that is
there, and so does one after a power cut. In the event loop.
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

FIRST_CAPTURES_MAX = 2  # of them, of volumes that never had one
LONG_CAPTURE_SECONDS = 10.0  # after which a capture leaves its place to others

P = ParamSpec("P")
T = TypeVar("T")


class CaptureSlots:
    """Captures of one daemon, on threads of `pool`, which has some for short questions besides."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.pool = pool
        self._places = asyncio.Semaphore(limits.CAPTURES_MAX)
        self._first = asyncio.Semaphore(FIRST_CAPTURES_MAX)
        self._long = 0

    async def run(
        self, first: bool, function: Callable[P, T], /, *arguments: P.args, **named: P.kwargs
    ) -> T:
        """What the function returns or raises, called when it is its turn.

        first: of some volume nothing was ever captured; such ones never take all places. One that
        takes long leaves its place to others, as long as few do.
        """
        async with contextlib.AsyncExitStack() as place:
            if first:
                await place.enter_async_context(self._first)
            await place.enter_async_context(self._places)
            work = begun(self.pool, function, *arguments, **named)
            try:
                await asyncio.wait({work}, timeout=LONG_CAPTURE_SECONDS)
                if work.done() or self._long >= limits.LONG_CAPTURES_MAX:
                    return await work
                with self._beside():
                    await place.aclose()
                    return await work
            finally:
                work.cancel()  # it has ended; or nobody waits for it, and it need not begin

    @contextlib.contextmanager
    def _beside(self) -> Iterator[None]:
        self._long += 1
        try:
            yield
        finally:
            self._long -= 1
