"""When the eBPF programs may be loaded again, after they were lost, or could not be loaded.

A loss costs a comparison of every volume that used them, and a load a second of the compiler: so
the first losses are made good at once, and each further one after a wait that is twice as long.
"""

from __future__ import annotations

from typing import Final

from diffkeeper import clock

EBPF_LOADS_MAX: Final = 3  # in a row without a wait between them
EBPF_RELOAD_SECONDS: Final = 600.0  # the first wait
EBPF_RELOAD_SECONDS_MAX: Final = 21_600.0  # the longest; programs that lasted so long are good
EBPF_RELOAD_DOUBLINGS_MAX: Final = 16


class Reloads:
    """Failures in a row, and the wait after them. Not thread-safe."""

    def __init__(self) -> None:
        self._waits = 0
        self._losses = 0
        self._loaded = self._due = float("-inf")
        self._reason = ""

    @property
    def why_not(self) -> str:
        """Why the programs are not loaded now, or ""."""
        left = self._due - clock.monotonic()
        if left <= 0:
            return ""
        if not self._losses:
            return self._reason
        later = f"tried again for volumes that are mounted in {left / 60:.0f} minutes or later"
        return f"{self._reason}; {later}"

    def loaded(self) -> None:
        """They were loaded."""
        self._loaded = clock.monotonic()

    def lost(self, reason: str, at: float) -> None:
        """They were lost at this moment (monotonic), after having been loaded."""
        if at - self._loaded >= EBPF_RELOAD_SECONDS_MAX:
            self._losses = self._waits = 0
        self._losses += 1
        if self._losses >= EBPF_LOADS_MAX:
            self._wait(f"{self._losses} times over, {reason}", at)

    def failed(self, reason: str) -> bool:
        """They could not be loaded; returns whether the reason is another one than before."""
        before = self._reason
        self._wait(reason, clock.monotonic())
        return reason != before

    def _wait(self, reason: str, since: float) -> None:
        wait = EBPF_RELOAD_SECONDS * 2.0**self._waits
        self._due = since + min(wait, EBPF_RELOAD_SECONDS_MAX)
        self._waits = min(self._waits + 1, EBPF_RELOAD_DOUBLINGS_MAX)
        self._reason = reason
