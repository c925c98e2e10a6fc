"""When the next capture of a volume is due, within its share of CPU."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from diffkeeper import limits


@dataclass(slots=True)
class Pace:
    """Seconds. `interval` is what the user asked for, `effective` what it comes to.

    due: when the next look is, on the monotonic clock; busy: one is under way.
    """

    interval: float
    effective: float
    failures: int = 0
    delayed: str = ""
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=limits.PACE_CAPTURES))
    due: float = 0.0
    busy: bool = False

    def used(self, cpu_seconds: float) -> None:
        """A capture was taken; `cpu_seconds`: of all volumes that were captured together."""
        self.failures = 0
        self.recent.append(cpu_seconds)

    @property
    def mean(self) -> float:
        """CPU seconds of a capture.

        Of a few together: one expensive one, such as the comparison after a mount, does not make
        the next ones late.
        """
        return sum(self.recent) / limits.PACE_CAPTURES

    def settle(self, shortest: float, mean: float) -> None:
        """Stretch the interval so that captures stay within their share of one core.

        `shortest`: interval in the group; `mean`: CPU seconds that its captures take.
        """
        if self.failures:
            return
        needed = min(mean / limits.CPU_FRACTION_MAX, limits.STRETCH_SECONDS_MAX)
        self.effective = max(shortest, needed)
        late = self.effective > shortest
        self.delayed = f"captures take {mean * 1000:.0f} ms of CPU each" if late else ""

    def failed(self, shortest: float) -> None:
        """A capture failed: it is tried again later and later."""
        self.failures += 1
        retry = min(shortest * 2 ** min(self.failures, 16), limits.CAPTURE_RETRY_SECONDS_MAX)
        self.effective = max(shortest, retry)
