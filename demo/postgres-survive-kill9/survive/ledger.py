"""The ledger: every commit that was acknowledged, on the host's disk and not in the volume.

A text file with one line for each event, synced before the loader goes on:

    A <id> <worker> <time in ns>    the commit of transfer <id> was acknowledged
    F <id>                          the loss of <id> was within what a wipe may cost, and reported

An acknowledgement is written after the database gave it. A loader killed between the two leaves
the ledger one entry short, never one entry too long.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from survive.settings import DemoError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Entry:
    """One acknowledged commit."""

    id: int
    worker: int
    acked_ns: int  # of the wall clock, when the acknowledgement had been read


class Ledger:
    """Append-only; safe for several threads."""

    def __init__(self, path: Path) -> None:
        """Opens or creates the file; raises DemoError when it holds anything but a ledger."""
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._forgiven: set[int] = set()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._load(path)

    def _load(self, path: Path) -> None:
        data = path.read_bytes()
        # A last line without its end was never synced, so nobody relies on it.
        whole = data.rfind(b"\n") + 1
        os.ftruncate(self._fd, whole)
        for number, line in enumerate(data[:whole].decode().splitlines(), 1):
            try:
                self._take(line.split())
            except (ValueError, IndexError):
                raise DemoError(f"{path}, line {number}: not a ledger entry: {line!r}") from None

    def _take(self, words: list[str]) -> None:
        if words[0] == "A":
            _, id_, worker, acked = words
            self._entries.append(Entry(int(id_), int(worker), int(acked)))
        elif words[0] == "F":
            self._forgiven.add(int(words[1]))
        else:
            raise ValueError(words[0])

    def add(self, entry: Entry) -> None:
        """Records one acknowledged commit durably."""
        line = f"A {entry.id} {entry.worker} {entry.acked_ns}\n".encode()
        with self._lock:
            os.write(self._fd, line)
            os.fdatasync(self._fd)
            self._entries.append(entry)

    def forgive(self, ids: Iterable[int]) -> None:
        """Records that these losses were allowed: they are not asked for again."""
        with self._lock:
            for id_ in ids:
                os.write(self._fd, f"F {id_}\n".encode())
                self._forgiven.add(id_)
            os.fdatasync(self._fd)

    def expected(self) -> list[Entry]:
        """Every commit that must be in the database now, in the order of acknowledgement."""
        with self._lock:
            return [entry for entry in self._entries if entry.id not in self._forgiven]

    @property
    def acknowledged(self) -> int:
        """How many commits were acknowledged in all, losses that were allowed included."""
        return len(self._entries)

    def next_id(self) -> int:
        """An id above every one in the ledger."""
        with self._lock:
            return max((entry.id for entry in self._entries), default=0) + 1

    def close(self) -> None:
        """Closes the file; nothing can be added afterwards."""
        os.close(self._fd)
