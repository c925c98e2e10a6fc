"""How often each kind was done, kept where it outlives a kill of the processes that count."""

from __future__ import annotations

import mmap
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_PAIR = struct.Struct("=QQ")  # done, failed


class Tally:
    """Counts of one thread, in a row of a file that all threads map."""

    def __init__(self, path: str, kinds: Sequence[str], rows: int, row: int) -> None:
        self._kinds = {name: number for number, name in enumerate(kinds)}
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._start = row * len(kinds) * _PAIR.size
        size = rows * len(kinds) * _PAIR.size
        os.ftruncate(fd, size)
        self._memory = mmap.mmap(fd, size)
        os.close(fd)

    def add(self, name: str, *, failed: bool) -> None:
        """One more."""
        at = self._start + self._kinds[name] * _PAIR.size
        done, failures = _PAIR.unpack_from(self._memory, at)
        _PAIR.pack_into(self._memory, at, done + (not failed), failures + failed)


def read(path: Path, kinds: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Kind to how often it was done, and how often it failed, over all threads."""
    found = dict.fromkeys(kinds, (0, 0))
    if path.exists():
        pairs = list(_PAIR.iter_unpack(path.read_bytes()))
        for number, (done, failed) in enumerate(pairs):
            before = found[kinds[number % len(kinds)]]
            found[kinds[number % len(kinds)]] = before[0] + done, before[1] + failed
    return found
