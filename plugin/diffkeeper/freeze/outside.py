"""What all processes of the machine have mapped: read from time to time, once for all volumes.

Most of them belong to no container that has a volume, and are not frozen: a store of theirs into a
volume's file leaves no trace, and makes its snapshots fuzzy. Too slow for every capture.
"""

from __future__ import annotations

import contextlib
import os
import threading

from diffkeeper import clock
from diffkeeper.errors import UnsupportedError
from diffkeeper.freeze.mappings import MappingScanner

OUTSIDE_SECONDS = 30.0  # between two readings of all processes' mappings
OUTSIDE_FILES_MAX = 100_000


class Outside:
    """Files by device that a process may store to through a mapping. Thread safe, bounded."""

    def __init__(self, proc_root: str = "/proc") -> None:
        self._proc_root = proc_root
        self._scanner = MappingScanner(proc_root)
        self._lock = threading.Lock()
        self._due = 0.0
        self._found: dict[str, dict[int, int]] = {}

    def mapped(self, dev: str) -> dict[int, int]:
        """Inode numbers on `dev` ("major:minor"), each with one process; the same object until the
        next reading.
        """
        with self._lock:
            now = clock.monotonic()
            if now >= self._due:
                self._found = self._scan()
                self._due = now + OUTSIDE_SECONDS
            return self._found.setdefault(dev, {})

    def _scan(self) -> dict[str, dict[int, int]]:
        found: dict[str, dict[int, int]] = {}
        count = 0
        for pid in map(int, filter(str.isdecimal, os.listdir(self._proc_root))):
            # A process with more privileges than ours could not be frozen or named anyway.
            with contextlib.suppress(UnsupportedError):
                for dev, inode in self._scanner.everything(pid):
                    found.setdefault(dev, {})[inode] = pid
                    count += 1
            if count > OUTSIDE_FILES_MAX:
                break
        return found
