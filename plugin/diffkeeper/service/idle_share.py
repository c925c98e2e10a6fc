"""How much of a core captures may take: more where processors are idle."""

from __future__ import annotations

import os
import threading
from collections import deque

from diffkeeper import clock, limits

# Each may take half of the idle time: several share it without using it up.
CPU_IDLE_PART = 0.5
CPU_FRACTION_IDLE_MAX = 0.25
IDLE_SECONDS = 10.0  # over which idle time is measured
IDLE_SAMPLE_SECONDS = 1.0

_LINE_BYTES = 512
_IDLE = 3  # proc_stat(5): user, nice, system, idle, iowait, …


class IdleShare:
    """Measures the idle time of the machine's processors. Any thread may call.

    Time in which a processor waits for a disk does not count: captures would wait for the same
    disk.
    """

    def __init__(self, proc_root: str = "/proc", processors: int | None = None) -> None:
        self._path = os.path.join(proc_root, "stat")
        self._processors = processors or os.cpu_count() or 1
        self._lock = threading.Lock()
        # Readings: time on the monotonic clock, idle time and total time as counted by the kernel.
        self._samples: deque[tuple[float, int, int]] = deque()

    def share(self) -> float:
        """Seconds of CPU per second that captures of one volume, or group, may take.

        At least their fixed share; half of the recent idle time, up to a bound.
        """
        idle = self._idle() * self._processors
        most = min(idle * CPU_IDLE_PART, CPU_FRACTION_IDLE_MAX)
        return max(limits.CPU_FRACTION_MAX, most)

    def _idle(self) -> float:
        """The fraction of the last seconds in which a processor was idle; 0 if unknown."""
        now = clock.monotonic()
        with self._lock:
            if not self._samples or now - self._samples[-1][0] >= IDLE_SAMPLE_SECONDS:
                try:
                    self._samples.append((now, *self._counted()))
                except (OSError, ValueError):
                    self._samples.clear()
            while len(self._samples) > 2 and now - self._samples[1][0] >= IDLE_SECONDS:
                self._samples.popleft()
            if len(self._samples) < 2:
                return 0.0
            (_, idle, total), (_, idle_now, total_now) = self._samples[0], self._samples[-1]
            return max(0, idle_now - idle) / max(1, total_now - total)

    def _counted(self) -> tuple[int, int]:
        with open(self._path, "rb", buffering=0) as file:
            line = file.read(_LINE_BYTES).split(b"\n", 1)[0]
        # Time of guests, at the end, is contained in the fields before.
        fields = [int(field) for field in line.split()[1:9]]
        if len(fields) <= _IDLE:
            raise ValueError
        return fields[_IDLE], sum(fields)
