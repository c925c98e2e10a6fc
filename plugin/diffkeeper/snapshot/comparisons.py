"""When a whole volume is compared with its recorded state, independent of hints."""

from __future__ import annotations

from diffkeeper import clock, limits

COMPARE_SECONDS = 600.0
COMPARE_SOON_SECONDS = 30.0


class Comparisons:
    """Schedule of the comparisons of one volume; `due`: the next one, on the monotonic clock.

    Hints may be incomplete, so there is a comparison from time to time, and sooner where something
    asks for one. Both take a small share of the time at most.
    """

    def __init__(self) -> None:
        self.due = clock.monotonic() + COMPARE_SECONDS
        self._soon = COMPARE_SOON_SECONDS

    def need(self, since: float | None = None) -> None:
        """Ask for one: something was seen (at `since`, else now) that only a comparison
        resolves.
        """
        self.due = min(self.due, (clock.monotonic() if since is None else since) + self._soon)

    def done(self, seconds: float) -> None:
        """Record that one has ended, and how long it took."""
        share = limits.COMPARE_SHARE * seconds
        self._soon = max(COMPARE_SOON_SECONDS, share)
        self.due = clock.monotonic() + max(COMPARE_SECONDS, share)
