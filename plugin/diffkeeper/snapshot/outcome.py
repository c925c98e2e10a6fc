"""Bounds of one capture's freeze, and its outcome, for all members of a group alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffkeeper.errors import FreezeError
from diffkeeper.limits import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffkeeper.snapshot.chunker import Content
    from diffkeeper.snapshot.observation import Observation

FROZEN_COPY_BYTES_MAX = 64 * MIB


@dataclass(slots=True)
class Outcome:
    """How one capture went, for all members alike."""

    fuzzy: str = ""
    time_ns: int = 0  # the instant that the snapshots show; 0 before it is known
    freeze_ms: float = 0.0


class Budget:
    """Bounds on time and memory of one freeze; exceeding either ends the freeze early."""

    def __init__(self, remaining: Callable[[], float]) -> None:
        self._remaining = remaining
        self._bytes = 0

    def check(self) -> None:
        """Raises FreezeError when the time is over."""
        if self._remaining() <= 0:
            raise FreezeError("more had changed than could be copied within the freeze limit")

    def spill(self, content: Content) -> None:
        """Account for the data of a large file in memory; raises FreezeError when it is too
        much.
        """
        self.check()
        if self._bytes + content.data_bytes > FROZEN_COPY_BYTES_MAX:
            raise FreezeError(
                f"more than {FROZEN_COPY_BYTES_MAX} bytes had changed within the freeze"
            )

    def add(self, seen: Observation) -> None:
        """Account for a name that was copied; raises FreezeError when the time is over."""
        self._bytes += seen.content.data_bytes if seen.content else 0
        self.check()
