"""Durations and sizes: from text to numbers, and back. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from diffkeeper.errors import InvalidInputError
from diffkeeper.volumes.names import shown

if TYPE_CHECKING:
    from collections.abc import Callable

NUMBER: Final = r"([0-9]{1,15}(?:\.[0-9]{1,9})?)"
_DURATION = re.compile(NUMBER + r"(ms|s|m|h|d)")
_SIZE = re.compile(NUMBER + r"(B|KiB|MiB|GiB|TiB)?")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def parse_duration(text: str) -> float:
    """Seconds from `250ms`, `1s`, `10m`, `1h` or `30d`; raises InvalidInputError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InvalidInputError(f"{shown(text)} is not a duration such as 250ms, 1s, 10m, 1h, 30d")
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(text: str) -> int:
    """Bytes from `65536`, `64KiB` or `1MiB`; raises InvalidInputError, also for part of a byte."""
    match = _SIZE.fullmatch(text)
    scaled = float(match[1]) * _BYTES[match[2] or "B"] if match else 0.5
    if scaled != int(scaled):
        raise InvalidInputError(f"{shown(text)} is not a size such as 65536, 64KiB, 1MiB")
    return int(scaled)


def format_duration(seconds: float) -> str:
    """The shortest exact form that `parse_duration` reads back: `0.25` is `250ms`."""
    milliseconds = round(seconds * 1000, 6)
    for unit in ("d", "h", "m", "s"):
        scale = _SECONDS[unit] * 1000
        if milliseconds >= scale and milliseconds % scale == 0:
            return f"{int(milliseconds // scale)}{unit}"
    return f"{milliseconds:.6f}".rstrip("0").rstrip(".") + "ms"


def format_size(count: int) -> str:
    """Bytes for a person: exact where the unit divides (`64KiB`), else one decimal (`1.5MiB`)."""
    if count < _BYTES["KiB"]:
        return f"{count}B"
    unit = next(u for u in ("TiB", "GiB", "MiB", "KiB") if count >= _BYTES[u])
    whole, rest = divmod(count, _BYTES[unit])
    return f"{whole}{unit}" if rest == 0 else f"{count / _BYTES[unit]:.1f}{unit}"


def between(low: float, high: float) -> Callable[[str], float]:
    """A parser of durations between these, in seconds; it raises InvalidInputError."""

    def parse(text: str) -> float:
        seconds = parse_duration(text)
        if not low <= seconds <= high:
            raise InvalidInputError(
                f"{shown(text)} is outside {format_duration(low)} to {format_duration(high)}"
            )
        return seconds

    return parse
