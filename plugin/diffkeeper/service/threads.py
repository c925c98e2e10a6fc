"""The step from the event loop into a thread: the one way there, with all arguments typed.

mypy checks positional and named arguments against the function, as with `asyncio.to_thread`; here
the pool is chosen by whoever calls, see `workers.Workers`.
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
    """The call of the function on a thread of the pool, which waits there for a free one.

    Cancelling it keeps a call from beginning, and does nothing to one that has begun.
    """

    def call() -> T:
        return function(*arguments, **named)

    return asyncio.get_running_loop().run_in_executor(pool, call)


async def within(
    pool: ThreadPoolExecutor, function: Callable[P, T], /, *arguments: P.args, **named: P.kwargs
) -> T:
    """What the function returns or raises, called on a thread of the pool."""
    return await begun(pool, function, *arguments, **named)
