"""The note that a store was closed whole: where it holds, an opening need not look at all pages.

A store can only be damaged at rest after that. What the opening does not look at then is looked at
before anything is written there, see `Environment.check_places`.
"""

from __future__ import annotations

import contextlib
import os

from diffkeeper.fsio import durable

_NAME = "ended"
_BYTES_MAX = 32


def write(directory: str, transaction: int) -> None:
    """Note that all pages of this transaction, the last one, were found whole."""
    # Without room there is no note, and the next opening looks at everything.
    with contextlib.suppress(OSError):
        durable.write_file(os.path.join(directory, _NAME), b"%d\n" % transaction)


def take(directory: str) -> int | None:
    """The transaction that the note names, or None; the note is gone, durably."""
    path = os.path.join(directory, _NAME)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        raw = os.read(fd, _BYTES_MAX)
    finally:
        os.close(fd)
    durable.remove_file(path)
    return int(raw) if raw.strip().isdigit() else None
