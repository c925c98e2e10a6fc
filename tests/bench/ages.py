"""How old the newest snapshot is, at every moment of a load, from what the daemon logs.

The daemon logs a snapshot when it is durable. Reading that costs the daemon nothing, unlike asking.
"""

from __future__ import annotations

import re
import threading
import time
from datetime import datetime
from typing import TYPE_CHECKING

from tests.bench.figures import Measurements

if TYPE_CHECKING:
    from pathlib import Path

_LINE = re.compile(r"^(?:info|debug) snapshot volume=(\S+) seq=(\d+) ", re.MULTILINE)
POLL_SECONDS = 0.005
STEP_SECONDS = 0.01


class Ages:
    """Watches the log while it is entered; `sample` is for the spans that were loads."""

    def __init__(self, log: Path, volume: str) -> None:
        self._log, self._volume = log, volume
        self._durable: dict[int, float] = {}  # sequence number to the time when it was logged
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch)

    def __enter__(self) -> Ages:
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watcher.join()

    def _watch(self) -> None:
        with open(self._log, encoding="utf-8", errors="replace") as file:
            file.seek(0, 2)
            rest = ""
            while not self._ended.wait(POLL_SECONDS):
                text = rest + file.read()
                whole, newline, rest = text.rpartition("\n")
                for volume, seq in _LINE.findall(whole + newline):
                    if volume == self._volume:
                        self._durable[int(seq)] = time.time()

    def sample(
        self, snapshots: list[dict[str, object]], spans: list[tuple[float, float]]
    ) -> Measurements:
        """Ages in ms at even steps through the spans, in seconds since the epoch."""
        shown = {
            int(str(each["seq"])): datetime.fromisoformat(str(each["time"])).timestamp()
            for each in snapshots
        }
        events = sorted((at, shown[seq]) for seq, at in self._durable.items() if seq in shown)
        sample = Measurements()
        for begin, end in spans:
            number, now = 0, begin
            while now < end:
                while number + 1 < len(events) and events[number + 1][0] <= now:
                    number += 1
                if events and events[number][0] <= now:
                    sample.values.append((now - events[number][1]) * 1000)
                now += STEP_SECONDS
        return sample
