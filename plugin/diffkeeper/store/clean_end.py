"""The note that a store was closed cleanly: then an opening need not check all pages.

After that a store can only be damaged at rest. What the opening skips is checked before anything is
written there, see `Environment.check_pack_index`.
"""

from __future__ import annotations

import contextlib
import os

from diffkeeper.fsio import durable

_NAME = "ended"
_BYTES_MAX = 32


def write(directory: str, transaction: int) -> None:
    """Write a note that all pages of this transaction, the last one, are sound."""
    # Without space there is no note, and the next opening checks everything.
    with contextlib.suppress(OSError):
        durable.write_file(os.path.join(directory, _NAME), b"%d\n" % transaction)


def pop(directory: str) -> int | None:
    """The transaction in the note, or None; the note is removed, durably."""
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
