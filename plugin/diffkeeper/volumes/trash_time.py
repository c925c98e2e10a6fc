"""How long a removed volume stays in the trash. Pure."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Final

from diffkeeper.errors import InvalidInputError
from diffkeeper.volumes.units import between

if TYPE_CHECKING:
    from collections.abc import Mapping

TRASH_FORM: Final = "0s to 3650d, or off"
TRASH_SECONDS_MAX = 3_650 * 86_400.0
TRASH_ANONYMOUS_SECONDS = 3_600.0  # for volumes whose name the engine generated

_ANONYMOUS = re.compile(r"[0-9a-f]{64}")


def parse_trash(text: str) -> float:
    """Seconds that a removed volume stays in the trash: a duration, `0` or `off`."""
    return 0.0 if text in ("0", "off") else between(0.0, TRASH_SECONDS_MAX)(text)


def kept_seconds(name: str, options: Mapping[str, str], default: float) -> float:
    """Seconds that a removed volume stays in the trash: its own option, else the default.

    A volume with a name that the engine generated goes sooner: nobody knows that name. Options that
    this release cannot read are ignored.
    """
    text = options.get("trash")
    if text is not None:
        with contextlib.suppress(InvalidInputError):
            return parse_trash(text)
    anonymous = _ANONYMOUS.fullmatch(name) is not None
    return min(default, TRASH_ANONYMOUS_SECONDS) if anonymous else default
