"""When the next capture of a volume is due, within its share of CPU and of its writers' time."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

from diffkeeper import clock, limits

PACE_CAPTURES = 8
STRETCH_SECONDS_MAX = 60.0  # for one expensive capture
CAPTURE_RETRY_SECONDS_MAX = 30.0
CAPTURE_RETRY_REST = 4  # times as long as the capture that failed


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds that one capture took: of CPU, for which writers stood still, and in all.

    Of all volumes that were captured together.
    """

    cpu: float = 0.0
    frozen: float = 0.0
    elapsed: float = 0.0


@dataclass(slots=True)
class Throttle:
    """Seconds. `interval` is what the user asked for, `effective` what it comes to.

    due: when the next look is, on the monotonic clock; busy: one is under way. Changed by its own
    methods alone, from the event loop and by captures; read by anybody.
    """

    interval: float
    effective: float
    failures: int = 0
    delayed: str = ""
    recent: deque[Cost] = field(default_factory=lambda: deque(maxlen=PACE_CAPTURES))
    due: float = 0.0
    busy: bool = False
    _lock: threading.Lock = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def take_interval(self, interval: float) -> None:
        """The user asks for another interval."""
        with self._lock:
            self.interval = self.effective = interval

    def look_at(self, moment: float) -> None:
        """The next look is due then."""
        with self._lock:
            self.due = moment

    def begin(self) -> None:
        """A look begins."""
        with self._lock:
            self.busy = True

    def end(self, started: float) -> None:
        """One that began at this moment is over."""
        with self._lock:
            self.busy = False
        self.rest(started)

    def used(self, cost: Cost) -> None:
        """A capture was taken."""
        with self._lock:
            self.failures = 0
            self.recent.append(cost)

    def needed(self, share: float) -> tuple[float, str]:
        """How far apart captures have to be to keep to their shares; and what they take of it.

        share: seconds of CPU that they may take in a second.
        """
        with self._lock:
            recent = list(self.recent)
        cpu = _spread([cost.cpu / share for cost in recent])
        frozen = _spread([cost.frozen / limits.FREEZE_FRACTION_MAX for cost in recent])
        if cpu >= frozen:
            return cpu, f"captures take {cpu * share * 1000:.0f} ms of CPU each"
        held_ms = frozen * limits.FREEZE_FRACTION_MAX * 1000
        return frozen, f"captures hold the writers for {held_ms:.0f} ms each"

    def adapt(self, shortest: float, needed: tuple[float, str]) -> None:
        """Stretch the interval so that captures stay within their shares.

        `shortest`: interval in the group; `needed`: the most that one of its volumes needs.
        """
        with self._lock:
            if self.failures:
                return
            self.effective = max(shortest, needed[0])
            self.delayed = needed[1] if self.effective > shortest else ""

    def failed(self, shortest: float, cost: Cost) -> None:
        """A capture failed: it is tried again later and later, and after a rest.

        It has read for nothing what the next one reads again.
        """
        rest = CAPTURE_RETRY_REST * cost.elapsed
        share = cost.cpu / limits.CPU_FRACTION_MAX
        with self._lock:
            self.failures += 1
            retry = min(shortest * 2 ** min(self.failures, 16), CAPTURE_RETRY_SECONDS_MAX)
            self.effective = max(shortest, retry, rest, share)

    def rest(self, started: float) -> None:
        """A look that began at this moment is over: set when the next one is due.

        After one that failed, the time counts from its end.
        """
        with self._lock:
            begins = clock.monotonic() if self.failures else started
            self.due = max(self.due, begins + self.effective)


def _spread(seconds: list[float]) -> float:
    """The mean of what the last captures need.

    A single expensive one, such as the first or the comparison after a mount, does not make the
    next ones late by more than a bound; what several take is never out of bounds.
    """
    bound = max([STRETCH_SECONDS_MAX, *sorted(seconds)[-2:-1]])
    return min(sum(seconds) / PACE_CAPTURES, bound)
