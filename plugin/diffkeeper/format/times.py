"""Timestamps beyond what signed 64 bits of nanoseconds hold: years 1677 to 2262.

File systems hold more: ext4 up to 2446, XFS 2486, btrfs and tmpfs any 64 bits of seconds. Such a
time is encoded as whole seconds, and nanoseconds beside them. Each time has one encoding alone.
"""

from __future__ import annotations

from typing import Final

from diffkeeper.errors import CorruptionError

NARROW: Final = range(-(1 << 63), 1 << 63)  # in nanoseconds
NS_PER_SECOND: Final = 1_000_000_000


def split(time_ns: int) -> tuple[int, int]:
    """Whole seconds, and nanoseconds from 0 on."""
    return divmod(time_ns, NS_PER_SECOND)


def joined(seconds: int, nanoseconds: int) -> int:
    """The time in ns; CorruptionError for parts that `split` never makes."""
    if nanoseconds >= NS_PER_SECOND:
        raise CorruptionError(f"a time with {nanoseconds} nanoseconds beside its seconds")
    return seconds * NS_PER_SECOND + nanoseconds
