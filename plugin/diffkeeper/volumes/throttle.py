"""When the next capture of a volume is due: within its share of CPU and of frozen time."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from diffkeeper import clock, limits

RECENT_CAPTURES = 8
STRETCH_SECONDS_MAX = 60.0  # by which one expensive capture delays the next, at most
CAPTURE_RETRY_SECONDS_MAX = 30.0
CAPTURE_RETRY_REST = 4  # times as long as the failed capture took


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds that one capture took: of CPU, frozen, and in all.

    Summed over all volumes that were captured together.
    """

    cpu: float = 0.0
    frozen: float = 0.0
    elapsed: float = 0.0


class Throttle:
    """Interval control of one volume, in seconds. Only its own methods change it, called by the
    event loop and by captures; any thread may read.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._effective = interval
        self._failures = 0
        self._delayed = ""
        self._recent: deque[Cost] = deque(maxlen=RECENT_CAPTURES)
        self._due = 0.0
        self._busy = False
        self._lock = threading.Lock()

    @property
    def interval(self) -> float:
        """The interval that the options ask for."""
        return self._interval

    @property
    def effective(self) -> float:
        """What the budget leaves of it."""
        return self._effective

    @property
    def delayed(self) -> str:
        """Why the interval is stretched, or ""."""
        return self._delayed

    @property
    def due(self) -> float:
        """When the next capture is, on the monotonic clock."""
        return self._due

    @property
    def busy(self) -> bool:
        """Whether a capture is under way."""
        return self._busy

    def set_interval(self, interval: float) -> None:
        """Set the interval that the options ask for."""
        with self._lock:
            self._interval = self._effective = interval

    def schedule(self, moment: float) -> None:
        """Set when the next capture is due."""
        with self._lock:
            self._due = moment

    def begin(self) -> None:
        """Mark a capture as under way."""
        with self._lock:
            self._busy = True

    def end(self, started: float) -> None:
        """The capture that began at this moment has ended."""
        with self._lock:
            self._busy = False
        self.rest(started)

    def used(self, cost: Cost) -> None:
        """Record the cost of a capture."""
        with self._lock:
            self._failures = 0
            self._recent.append(cost)

    def needed(self, share: float) -> tuple[float, str]:
        """Interval that keeps captures within their shares, and a text with what they take.

        share: seconds of CPU that they may take in a second.
        """
        with self._lock:
            recent = list(self._recent)
        cpu = _spread([cost.cpu / share for cost in recent])
        frozen = _spread([cost.frozen / limits.FREEZE_FRACTION_MAX for cost in recent])
        if cpu >= frozen:
            return cpu, f"captures take {cpu * share * 1000:.0f} ms of CPU each"
        held_ms = frozen * limits.FREEZE_FRACTION_MAX * 1000
        return frozen, f"captures hold the writers for {held_ms:.0f} ms each"

    def adapt(self, shortest: float, needed: tuple[float, str]) -> None:
        """Stretch the interval to keep to the shares.

        `shortest`: smallest interval of the group; `needed`: the largest need of its volumes.
        """
        with self._lock:
            if self._failures:
                return
            self._effective = max(shortest, needed[0])
            self._delayed = needed[1] if self._effective > shortest else ""

    def failed(self, shortest: float, cost: Cost) -> None:
        """Record a failed capture: the next try comes later with each failure, and after a rest.

        The rest is there because the next try reads everything again.
        """
        rest = CAPTURE_RETRY_REST * cost.elapsed
        share = cost.cpu / limits.CPU_FRACTION_MAX
        with self._lock:
            self._failures += 1
            retry = min(shortest * 2 ** min(self._failures, 16), CAPTURE_RETRY_SECONDS_MAX)
            self._effective = max(shortest, retry, rest, share)

    def rest(self, started: float) -> None:
        """Set when the next capture is due, after one that began at `started`.

        After a failed one the time counts from its end.
        """
        with self._lock:
            begins = clock.monotonic() if self._failures else started
            self._due = max(self._due, begins + self._effective)


def _spread(seconds: list[float]) -> float:
    """Mean of what the last captures need.

    A single expensive one, such as the first or the comparison after a mount, delays the next ones
    by a bounded time only.
    """
    bound = max([STRETCH_SECONDS_MAX, *sorted(seconds)[-2:-1]])
    return min(sum(seconds) / RECENT_CAPTURES, bound)
