"""From the event loop into threads, for everything that blocks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")


async def within(pool: ThreadPoolExecutor, function: Callable[..., T], *arguments: object) -> T:
    """What the function returns or raises, called on a thread of the pool."""
    return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)
