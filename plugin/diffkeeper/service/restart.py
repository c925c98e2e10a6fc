"""Ends the process: the engine then starts the managed plugin again, and shares its mounts
again.
"""

from __future__ import annotations

import logging
import os
import signal
from typing import Final

from diffkeeper import clock

log = logging.getLogger(__name__)

ANEW_SECONDS_MIN = 30.0  # between two ends of the process for that reason
NOTE: Final = "ended-for-mounts"


def may_end(state_dir: str) -> bool:
    """Whether the last end of the process is long enough ago; if so, this one is recorded.

    If that does not help, each Mount reports the problem from then on.
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
    """Stop in an orderly way, as on SIGTERM, unless that was done a moment ago."""
    if may_end(state_dir):
        log.error("ending_for_mounts", extra={"state_dir": state_dir})
        os.kill(os.getpid(), signal.SIGTERM)
