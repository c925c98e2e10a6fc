"""When a whole volume is compared with what is recorded of it, whatever was hinted."""

from __future__ import annotations

from diffkeeper import clock, limits

COMPARE_SECONDS = 600.0
COMPARE_SOON_SECONDS = 30.0


class Comparisons:
    """`due`: when the next one is, by the monotonic clock.

    Hints are never truth: there is one from time to time, and sooner where one is needed. Both take
    a small share of the time at most.
    """

    def __init__(self) -> None:
        self.due = clock.monotonic() + COMPARE_SECONDS
        self._soon = COMPARE_SOON_SECONDS

    def need(self, since: float | None = None) -> None:
        """Something was seen (at `since`, else now) that only a comparison clears up."""
        self.due = min(self.due, (clock.monotonic() if since is None else since) + self._soon)

    def done(self, seconds: float) -> None:
        """There was one, which took so long."""
        share = limits.COMPARE_SHARE * seconds
        self._soon = max(COMPARE_SOON_SECONDS, share)
        self.due = clock.monotonic() + max(COMPARE_SECONDS, share)
