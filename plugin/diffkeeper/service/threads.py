"""From the event loop into a thread: the only way there, with typed arguments.

mypy checks positional and named arguments against the function, as with `asyncio.to_thread`; the
caller chooses the pool, see `workers.Workers`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor

P = ParamSpec("P")
T = TypeVar("T")


def begun(
    pool: ThreadPoolExecutor, function: Callable[P, T], /, *arguments: P.args, **named: P.kwargs
) -> asyncio.Future[T]:
    """A future of the function's result, called on a thread of the pool once one is free.

    Cancelling it prevents a call that has not begun, and has no effect on one that has.
    """

    def call() -> T:
        return function(*arguments, **named)

    return asyncio.get_running_loop().run_in_executor(pool, call)


async def within(
    pool: ThreadPoolExecutor, function: Callable[P, T], /, *arguments: P.args, **named: P.kwargs
) -> T:
    """Result or exception of the function, called on a thread of the pool."""
    return await begun(pool, function, *arguments, **named)
