"""Direct I/O (AIO, io_uring) that is in flight when its process is frozen: it continues.

A kill would let it complete, too, so a freeze waits for it. Best is a moment without any; a slow
disk that is always busy has no such moment, and then no freeze is long enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper import clock
from diffkeeper.errors import FreezeError
from diffkeeper.freeze.stuck import Rest

if TYPE_CHECKING:
    from collections.abc import Callable

EBPF_DIRECT_POLL_SECONDS = 0.000_1
DIRECT_LOOK_SECONDS = 0.001
DIRECT_PAUSE_SECONDS = 0.02  # for which a freeze waits for a moment without direct I/O
DIRECT_WAIT_SECONDS = 1.0  # likewise, after a freeze that direct I/O outlasted


class DirectIo:
    """The direct I/O of one volume; `under_way` asks its source. Not thread-safe."""

    def __init__(self, under_way: Callable[[], bool]) -> None:
        self._under_way = under_way
        self._rest = Rest()
        self._outlasted = False  # in the freeze under way

    def before(self) -> None:
        """Before a freeze: wait for a moment without direct I/O, for a bounded time.

        Raises FreezeError where it made several freezes in a row fail, and is still in flight.
        """
        # Most disks complete at once what is in flight: there a freeze need not wait for a moment.
        bound = DIRECT_WAIT_SECONDS if self._rest.times else DIRECT_PAUSE_SECONDS
        deadline = clock.monotonic() + bound
        while lasts := self._under_way():
            if clock.monotonic() >= deadline or self._rest.left(lasts=True):
                break
            clock.sleep(DIRECT_LOOK_SECONDS)
        if left := self._rest.left(lasts=lasts):
            raise FreezeError(
                f"direct I/O outlasted the freeze {self._rest.times} times in a row: its disk is"
                f" slow; no freeze is tried for {left:.0f} s while it goes on",
                again=False,
            )

    def inside(self, check: Callable[[], None]) -> None:
        """In a freeze: wait for direct I/O that began before it; `check` raises when time is over.

        Raises FreezeError then, with the reason.
        """
        try:
            while self._under_way():
                check()
                clock.sleep(EBPF_DIRECT_POLL_SECONDS)
        except FreezeError as error:
            self._outlasted = True
            raise FreezeError(
                "direct I/O that was under way before the freeze did not end within its limit"
            ) from error

    def thawed(self, held_seconds: float) -> None:
        """The freeze is over; writers were frozen for so long."""
        if self._outlasted:
            self._rest.failed(held_seconds)
        elif held_seconds:
            self._rest = Rest()
        self._outlasted = False
