"""The only reader of the system's clocks, so that tests can move time."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now_ns() -> int:
    """Wall-clock time, nanoseconds since the epoch."""
    return time.time_ns()


def monotonic() -> float:
    """Seconds on a clock that never steps; only differences mean anything."""
    return time.monotonic()


def boottime_ns() -> int:
    """Nanoseconds on a clock that never steps and goes on while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def thread_cpu() -> float:
    """CPU seconds used by the calling thread."""
    return time.thread_time()


def sleep(seconds: float) -> None:
    """Block the calling thread."""
    time.sleep(seconds)


def since_epoch_ns(moment: str) -> int:
    """Nanoseconds since the epoch of a moment with a zone, `2026-01-02T03:04:05+00:00`; may be
    negative. Raises ValueError for what is none.
    """
    elapsed = datetime.fromisoformat(moment) - datetime.fromtimestamp(0, UTC)
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000_000


def rfc3339(time_ns: int) -> str:
    """RFC 3339 in UTC with microseconds, as dockerd decodes it: `2026-01-02T03:04:05.000006Z`."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{stamp}.{nanoseconds // 1000:06d}Z"
