"""Names and ids that come from outside: which are allowed, and how they are shown. Pure."""

from __future__ import annotations

import re
from typing import Final

from diffkeeper.errors import InvalidInputError

VOLUME_NAME_BYTES_MAX = 255
MOUNT_ID_BYTES_MAX = 256

_SHOWN_CHARACTERS_MAX: Final = 64
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")
_MOUNT_ID = re.compile(r"[!-~]+")


def shown(text: str) -> str:
    """`text` quoted for a message: ASCII only, control characters escaped, bounded in length."""
    if len(text) <= _SHOWN_CHARACTERS_MAX:
        return ascii(text)
    return f"{ascii(text[:_SHOWN_CHARACTERS_MAX])}… ({len(text)} characters)"


def check_name(name: str) -> str:
    """The volume name if it is allowed; raises InvalidInputError."""
    if _NAME.fullmatch(name) is None:
        raise InvalidInputError(
            f"volume name {shown(name)}: use 1 to {VOLUME_NAME_BYTES_MAX} of the characters"
            " a-z A-Z 0-9 _ . - and begin with a letter or digit"
        )
    return name


def check_mount_id(mount_id: str) -> str:
    """The mount ID if it is well formed (dockerd sends 64 hex digits); raises InvalidInputError."""
    if len(mount_id) > MOUNT_ID_BYTES_MAX or _MOUNT_ID.fullmatch(mount_id) is None:
        raise InvalidInputError(
            f"mount ID {shown(mount_id)}: use 1 to {MOUNT_ID_BYTES_MAX} printable ASCII"
            " characters without spaces"
        )
    return mount_id
