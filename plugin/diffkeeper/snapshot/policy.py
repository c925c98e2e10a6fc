"""Options of captures of one volume. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from diffkeeper import limits

FREEZE_SECONDS_DEFAULT = 0.050  # the most that the README promises


@dataclass(frozen=True, slots=True)
class CapturePolicy:
    """How one volume is captured; a part of its options.

    source: a name of `sources.ladder`; freeze: whether writers are frozen. level: of zstd, None
    stores chunks raw. exclude: globs of paths that are neither captured nor restored, see
    `snapshot.exclusions`. chunk_bits: log2 of the size of a chunk.
    """

    source: str = "auto"
    freeze: bool = True
    freeze_seconds_max: float = FREEZE_SECONDS_DEFAULT
    level: int | None = 1
    exclude: tuple[str, ...] = ()
    chunk_bits: int = limits.CHUNK_BYTES_DEFAULT.bit_length() - 1
