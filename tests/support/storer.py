"""A program that stores a number through a mapping each time that it is told to."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

STORE_SECONDS_MAX = 10


def store(signals: Path, number: int) -> None:
    """Have the program store a number, and wait until it has.

    It waits for a file goNUMBER in the directory `signals`, and makes doneNUMBER.
    """
    (signals / f"go{number}").touch()
    deadline = time.monotonic() + STORE_SECONDS_MAX
    while not (signals / f"done{number}").exists():
        assert time.monotonic() < deadline, "the program does not store"
        time.sleep(0.002)
