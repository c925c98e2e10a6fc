"""The text form of a retention: `all`, or an age and a step for each tier. Pure."""

from __future__ import annotations

from typing import Final

from diffkeeper.errors import InvalidInputError
from diffkeeper.volumes.names import shown
from diffkeeper.volumes.retention_policy import Tier, Tiers
from diffkeeper.volumes.units import between, format_duration

RETENTION_FORM: Final = "all, or AGE:STEP,… such as 10m:all,2h:1m,2d:1h,30d:1d"
RETENTION_TIERS_MAX = 8
RETENTION_SECONDS_MIN = 1.0  # of an age or a step
RETENTION_SECONDS_MAX = 36_500 * 86_400.0


def parse_retention(text: str) -> Tiers:
    """Tiers from `all` (no tiers: everything is kept) or `AGE:STEP,…`; raises InvalidInputError.

    Up to each AGE one snapshot in every STEP is kept; the first STEP may be `all`.
    """
    if text == "all":
        return ()
    items = text.split(",")
    if len(items) > RETENTION_TIERS_MAX:
        raise InvalidInputError(f"more than {RETENTION_TIERS_MAX} tiers of retention")
    tiers: list[Tier] = []
    for item in items:
        tiers.append(_tier(item, tiers))
    return tuple(tiers)


def _tier(item: str, younger: list[Tier]) -> Tier:
    """One tier that follows the `younger` ones; its step must be a multiple of theirs."""
    age, colon, step = item.partition(":")
    if not colon:
        raise InvalidInputError(f"retention {shown(item)} is not AGE:STEP such as 2h:1m")
    everything = step == "all" and not younger
    tier = Tier(_whole_ns(age), 0 if everything else _whole_ns(step))
    before = younger[-1] if younger else Tier(0, 0)
    if tier.until_ns <= before.until_ns or tier.until_ns < tier.step_ns:
        raise InvalidInputError(f"retention {shown(item)}: ages rise, and exceed their steps")
    if before.step_ns and (tier.step_ns <= before.step_ns or tier.step_ns % before.step_ns):
        raise InvalidInputError(
            f"retention {shown(item)}: a step is a multiple of the one before, and longer"
        )
    return tier


def _whole_ns(text: str) -> int:
    seconds = between(RETENTION_SECONDS_MIN, RETENTION_SECONDS_MAX)(text)
    if seconds != int(seconds):
        raise InvalidInputError(f"{shown(text)} is not a whole number of seconds")
    return int(seconds) * 1_000_000_000


def format_retention(tiers: Tiers) -> str:
    """Text that `parse_retention` reads back."""
    if not tiers:
        return "all"
    steps = [format_duration(tier.step_ns / 1e9) if tier.step_ns else "all" for tier in tiers]
    ages = [format_duration(tier.until_ns / 1e9) for tier in tiers]
    return ",".join(f"{age}:{step}" for age, step in zip(ages, steps, strict=True))
