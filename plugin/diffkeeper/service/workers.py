"""From the event loop into threads, for everything that blocks; one pool for each purpose.

What takes long has a pool of its own, so that however much of it there is, it delays nothing that
is short, or that must continue.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from diffkeeper import limits
from diffkeeper.limits import CAPTURES_MAX, LONG_CAPTURES_MAX
from diffkeeper.service.capture_slots import CaptureSlots

STEP_THREADS = 8
FINAL_CAPTURES_MAX = 4  # of Unmounts and Removes, at once
CAPTURE_THREADS = CAPTURES_MAX + LONG_CAPTURES_MAX + 2  # and for short questions
QUERY_THREADS = 4
LONG_THREADS = 4  # for verifications, scrubs, maintenance and compacting by command


class Workers:
    """The thread pools of one daemon. Work that finds no free thread waits only for its own
    purpose.
    """

    def __init__(self) -> None:
        self._all: list[ThreadPoolExecutor] = []
        self.steps = self._pool("step", STEP_THREADS)  # short steps of lifecycles
        self.replays = self._pool("replay", limits.REPLAYS_MAX)
        self.final_captures = self._pool("final", FINAL_CAPTURES_MAX)  # of Unmount and Remove
        self.captures = CaptureSlots(self._pool("capture", CAPTURE_THREADS))
        self.queries = self._pool("query", QUERY_THREADS)  # what a caller waits for
        self.history = self._pool("history", 1)  # retention and trash, as they fall due
        # One at a time. It waits for nothing that is long: maintenance may be waiting for its end.
        self.imports = self._pool("import", 1)
        self.long = self._pool("long", LONG_THREADS)  # reads or deletes without a bound

    def _pool(self, purpose: str, threads: int) -> ThreadPoolExecutor:
        pool = ThreadPoolExecutor(threads, thread_name_prefix=purpose)
        self._all.append(pool)
        return pool

    def stop(self) -> None:
        """Begin no more work."""
        for pool in self._all:
            pool.shutdown(wait=False, cancel_futures=True)
