"""The lock file: one process at a time, and a mark that tells a lost data file from a new store."""

from __future__ import annotations

import fcntl
import os

from diffkeeper.errors import CorruptionError, InvalidInputError, NoSpaceError, StoreLockedError

_MARKER = b"diffkeeper store\n"


def acquire(path: str) -> int:
    """Descriptor of the locked file; StoreLockedError when another process has the lock."""
    lock_path = os.path.join(path, "lock")
    try:
        fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise InvalidInputError(f"{lock_path} cannot be opened: {error}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise StoreLockedError(f"another process holds the store in {path} open") from None
    return fd


def refuse_lost_data(path: str, lock_fd: int) -> None:
    """CorruptionError for a data file that vanished: it must not become a new and empty store."""
    data_path = os.path.join(path, "data.mdb")
    present = os.path.exists(data_path) and os.stat(data_path).st_size > 0
    if not present and os.pread(lock_fd, len(_MARKER), 0) == _MARKER:
        raise CorruptionError(f"{data_path} is missing or empty, although a store was here")


def mark(path: str, lock_fd: int) -> None:
    """Mark that there is a store; NoSpaceError when there is no space even for that."""
    if os.pread(lock_fd, len(_MARKER), 0) == _MARKER:
        return
    try:
        os.pwrite(lock_fd, _MARKER, 0)
    except OSError as error:
        raise NoSpaceError(f"no room left in {path}: {error}") from error
