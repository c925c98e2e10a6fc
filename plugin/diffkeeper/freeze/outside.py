"""What all processes of the machine have mapped: looked at now and then, once for all volumes.

Most of them belong to no container that has a volume, and are not frozen: what they store into a
volume's file leaves no trace, and makes its snapshots no instant. Too slow for a look at each.
"""

from __future__ import annotations

import contextlib
import os
import threading

from diffkeeper import clock
from diffkeeper.errors import UnsupportedError
from diffkeeper.freeze.mappings import MappingScanner

OUTSIDE_SECONDS = 30.0  # between two looks at what all processes have mapped
OUTSIDE_FILES_MAX = 100_000


class Outside:
    """Files by device that some process may store to through a mapping. Thread safe, bounded."""

    def __init__(self, proc_root: str = "/proc") -> None:
        self._proc_root = proc_root
        self._scanner = MappingScanner(proc_root)
        self._lock = threading.Lock()
        self._due = 0.0
        self._found: dict[str, dict[int, int]] = {}

    def mapped(self, dev: str) -> dict[int, int]:
        """Inode numbers on `dev` ("major:minor") to a process each; the same object until all was
        looked at again.
        """
        with self._lock:
            now = clock.monotonic()
            if now >= self._due:
                self._found = self._look()
                self._due = now + OUTSIDE_SECONDS
            return self._found.setdefault(dev, {})

    def _look(self) -> dict[str, dict[int, int]]:
        found: dict[str, dict[int, int]] = {}
        count = 0
        for pid in map(int, filter(str.isdecimal, os.listdir(self._proc_root))):
            # Whoever may do more than we is no process that we could tell anything of.
            with contextlib.suppress(UnsupportedError):
                for dev, inode in self._scanner.everything(pid):
                    found.setdefault(dev, {})[inode] = pid
                    count += 1
            if count > OUTSIDE_FILES_MAX:
                break
        return found
