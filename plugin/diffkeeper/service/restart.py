"""Ends the process: the engine starts the managed plugin anew then, and shares its mounts again."""

from __future__ import annotations

import logging
import os
import signal
from typing import Final

from diffkeeper import clock

log = logging.getLogger(__name__)

ANEW_SECONDS_MIN = 30.0  # between two ends of the process for the engine to share mounts anew
NOTE: Final = "ended-for-mounts"


def may_end(state_dir: str) -> bool:
    """Whether it is long enough ago that the process was ended; if so, it is noted to be now.

    What an end does not mend is told by each Mount from then on.
    """
    note = os.path.join(state_dir, NOTE)
    try:
        age_ns = clock.now_ns() - os.stat(note).st_mtime_ns
        if 0 <= age_ns < ANEW_SECONDS_MIN * 1e9:
            return False
    except FileNotFoundError:
        os.makedirs(state_dir, mode=0o700, exist_ok=True)
    with open(note, "w", encoding="ascii"):
        os.utime(note)
    return True


def end(state_dir: str) -> None:
    """End in order, as if told to stop, unless that was done a moment ago."""
    if may_end(state_dir):
        log.error("ending_for_mounts", extra={"state_dir": state_dir})
        os.kill(os.getpid(), signal.SIGTERM)
