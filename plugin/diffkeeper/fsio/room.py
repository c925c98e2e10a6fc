"""How much of a file system history may take, and what stays free for live data."""

from __future__ import annotations

import os
from dataclasses import dataclass

from diffkeeper.fsio import durable
from diffkeeper.limits import GIB, STORE_MAX_FRACTION_DEFAULT, STORE_SPARE_BYTES

STORE_RESERVE_BYTES_MAX = 4 * GIB  # for live data, whatever the size of the disk
STORE_RESERVE_FRACTION = 0.05  # of the disk, and of live data in addition
STORE_PRESSURE_FRACTION = 0.9  # of its bound, from which on history is thinned early
STORE_EASE_FRACTION = 0.8  # of its bound, down to which


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a file system: so many bytes, or, if that is 0, a fraction of its size."""

    bytes: int = 0
    fraction: float = STORE_MAX_FRACTION_DEFAULT

    def of(self, total_bytes: int) -> int:
        """In bytes of a file system of this size."""
        return self.bytes or int(total_bytes * self.fraction)


@dataclass(frozen=True, slots=True)
class Levels:
    """How full store and file system are; in bytes."""

    used: int  # by pages in use
    held: int  # allocated for the store's file
    free: int  # on the file system

    @property
    def room(self) -> int:
        """Bytes that can be written without taking more from live data than now.

        Half of the free space within the file counts: short runs of pages may be of no use.
        """
        return self.free + max(0, (self.held - self.used) // 2 - 4 * STORE_SPARE_BYTES)


@dataclass(slots=True)
class Room:
    """The bounds of one store. `live_bytes`, of all volumes, may change at any time; `refused` is
    the size of the largest commit that was refused, until there is room for it, or none can be
    made.
    """

    path: str
    total_bytes: int  # of the file system
    bound_bytes: int  # of pages in use
    fixed_bytes: int | None  # the reserve, if it was given
    live_bytes: int = 0
    refused: int = 0

    @classmethod
    def at(cls, path: str, share: Share, reserve_bytes: int | None) -> Room:
        """The bounds of a store in this directory."""
        status = os.statvfs(path)
        total = status.f_blocks * status.f_frsize
        return cls(path, total, share.of(total), reserve_bytes)

    @property
    def reserve_bytes(self) -> int:
        """Bytes that stay free: a share of the disk, and as much again in proportion to live
        data.
        """
        if self.fixed_bytes is not None:
            return self.fixed_bytes
        most = min(STORE_RESERVE_BYTES_MAX, int(self.total_bytes * STORE_RESERVE_FRACTION))
        return most + min(most, int(self.live_bytes * STORE_RESERVE_FRACTION))

    def levels(self, used: int, held: int) -> Levels:
        """The present levels."""
        return Levels(used, held, durable.free_bytes(self.path))

    def refusal(self, levels: Levels, size: int) -> str:
        """Why history may not grow by `size` bytes; empty where it may."""
        if levels.used + size > self.bound_bytes:
            return (
                f"history takes {levels.used} bytes of the {self.bound_bytes} that it may in"
                f" {self.path} (store-max); this needs {size}"
            )
        if levels.room < self.reserve_bytes + size:
            return (
                f"{levels.free} bytes are free for the store in {self.path}; this needs {size},"
                f" and {self.reserve_bytes} are kept in reserve for live data"
            )
        return ""

    def excess(self, levels: Levels) -> int:
        """Bytes that history has to give up now to go on; 0 while there is room."""
        # A capture larger than history may ever be must not evict all histories.
        more = min(self.refused, self.bound_bytes // 2)
        excess = 0
        if more or levels.used > self.bound_bytes * STORE_PRESSURE_FRACTION:
            excess = levels.used + more - int(self.bound_bytes * STORE_EASE_FRACTION)
        if levels.room < self.reserve_bytes * 1.5 + more:
            excess = max(excess, 2 * self.reserve_bytes + more - levels.room)
        return max(0, excess)
