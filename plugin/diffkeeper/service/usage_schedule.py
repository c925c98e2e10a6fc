"""When usage is counted, and who gets the figures: in the background, or on request."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from msgspec import structs

from diffkeeper.messages.store import StoreUsage
from diffkeeper.service.threads import within
from diffkeeper.space.usage import UsageWalk
from diffkeeper.volumes.status import account_view

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from diffkeeper.store.store import Store
    from diffkeeper.volumes.volume import Volume

ACCOUNT_WAIT_SECONDS_MAX = 30.0
ACCOUNT_SECONDS = 600.0


class UsageSchedule:
    """The counts of one store; the results go to its volumes and to `trash`.

    All methods but `stop` are called on the event loop.
    """

    def __init__(
        self,
        store: Store,
        volumes: Callable[[], list[Volume]],
        trash: Callable[[Mapping[int, int]], None],
    ) -> None:
        self._accounting = UsageWalk(store)
        self._volumes = volumes
        self._trash = trash
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="count")
        self._task: asyncio.Task[None] | None = None
        self._waiting = 0

    def stop(self) -> None:
        """Cancel a count under way, and begin none."""
        self._accounting.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def run_forever(self) -> None:
        """Count again and again, slowly; until it is cancelled."""
        while True:
            await asyncio.sleep(ACCOUNT_SECONDS)
            await asyncio.shield(self._begun())

    async def now(self) -> None:
        """Count now. Returns after a bounded time in any case; the figures are older ones then."""
        self._waiting += 1
        self._accounting.in_haste = True
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._begun()), ACCOUNT_WAIT_SECONDS_MAX)
        finally:
            self._waiting -= 1
            self._accounting.in_haste = self._waiting > 0

    def _begun(self) -> asyncio.Task[None]:
        """The task of the count under way, or of a new one."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._count())
        return self._task

    async def _count(self) -> None:
        accounts = await within(self._pool, self._accounting.refresh)
        if accounts is None:
            return
        self._trash(accounts.trash)
        for volume in self._volumes():
            account = accounts.volumes.get(volume.state.record.id)
            volume.status.counted(None if account is None else (account, accounts))

    def shown(self) -> StoreUsage | None:
        """The figures of the last count; None before the first one."""
        accounts = self._accounting.latest
        if accounts is None:
            return None
        views = {volume.name: account_view(volume) for volume in self._volumes()}
        counted = {name: view for name, view in views.items() if view is not None}
        count, total = structs.asdict(accounts.count()), accounts.total.figures()
        return StoreUsage(**count, total=total, volumes=counted)
