"""Paths of files of a volume, as arguments. Pure."""

from __future__ import annotations

import os
from typing import Final

from diffkeeper import limits
from diffkeeper.errors import InvalidInputError

RULE: Final = "relative to the volume's top directory, such as base/16384/2619"


def check_path(text: str) -> bytes:
    """Check a path below a volume's top directory; InvalidInputError."""
    try:
        path = os.fsencode(text)
    except UnicodeEncodeError:
        raise InvalidInputError(f"{text!a} is no path: it has characters without bytes") from None
    names = path.split(b"/")
    if path.startswith(b"/"):
        raise InvalidInputError(f"{text!r} is absolute; paths are {RULE}")
    if any(name in (b"", b".", b"..") for name in names):
        raise InvalidInputError(f"{text!r} has an empty name, '.' or '..'; paths are {RULE}")
    if b"\0" in path or any(len(name) > limits.NAME_BYTES_MAX for name in names):
        raise InvalidInputError(
            f"{text[:100]!r} has a null byte, or a name longer than {limits.NAME_BYTES_MAX} bytes"
        )
    return path
