"""Texts that several modules use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from diffkeeper.integrity.verify import Result

CLONE: Final = "clone"  # reason of the first snapshot of a clone


def repair_command(volume: str, result: Result) -> str:
    """The command that repairs what the verification found; "" where there is nothing to repair."""
    return f"diffkeeper repair {volume}" if any(m.damaged for m in result.mismatches) else ""
