"""The freeze journal: what to thaw at the next start, if both daemon and guard are killed.

The file is written in place and never synced: the page cache outlives a killed process, and a
reboot thaws by itself. A torn record fails its checksum, which proves that the freeze it announces
had not begun. Its blocks stay allocated, so that a full disk does not stop the next freeze.

    offset  size  field
    0       4     magic `DKFZ`
    4       4     bytes of the body, u32 little-endian; all 16 bytes are zero when nothing is frozen
    8       4     CRC-32 of the body, u32 little-endian
    12      4     number of the freeze, u32 little-endian, random at each start
    16      -     body: cgroup directories relative to the cgroup root, each ended by a NUL byte
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import TYPE_CHECKING

from diffkeeper.errors import CorruptionError, FreezeError
from diffkeeper.freeze.cgroups import Cgroup
from diffkeeper.limits import MIB

if TYPE_CHECKING:
    from collections.abc import Sequence

FREEZE_JOURNAL_BYTES_MAX = 1 * MIB

_HEAD = struct.Struct("<4sIII")
_MAGIC = b"DKFZ"
_CLEARED = bytes(_HEAD.size)
_PREALLOCATED_BYTES = 16 * 1024


class FreezeJournal:
    """The open journal at `path`, naming directories below `cgroup_root`. Not thread-safe."""

    def __init__(self, path: str, cgroup_root: str) -> None:
        self.path = os.path.abspath(path)
        self._root = cgroup_root.rstrip("/")
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._number = int.from_bytes(os.urandom(4), "little")
        if os.fstat(self._descriptor).st_size < _PREALLOCATED_BYTES:
            os.pwrite(self._descriptor, bytes(_PREALLOCATED_BYTES), 0)

    def write(self, directories: Sequence[str]) -> bytes:
        """Announce the freeze of `directories`; returns the record's head, which the guard clears
        by.

        Raises FreezeError when it can't be written: then nothing may be frozen.
        """
        body = b"".join(os.fsencode(self._relative(path)) + b"\0" for path in directories)
        self._number = (self._number + 1) % 2**32
        head = _HEAD.pack(_MAGIC, len(body), zlib.crc32(body), self._number)
        record = head + body
        try:
            if len(record) > FREEZE_JOURNAL_BYTES_MAX:
                raise FreezeError("too many cgroups for the freeze journal")
            if os.pwrite(self._descriptor, record, 0) != len(record):
                raise FreezeError("the freeze journal was cut short: is its disk full?")
        except OSError as error:
            raise FreezeError(f"the freeze journal: {error.strerror}") from error
        return head

    def clear(self) -> None:
        """Record that nothing is frozen."""
        try:
            os.pwrite(self._descriptor, _CLEARED, 0)
        except OSError as error:
            raise FreezeError(f"the freeze journal: {error.strerror}") from error

    def close(self) -> None:
        """Release the descriptor; the record stays."""
        os.close(self._descriptor)

    def _relative(self, directory: str) -> str:
        if not directory.startswith(f"{self._root}/"):
            raise FreezeError(f"cgroup {directory} is not below {self._root}")
        return directory.removeprefix(f"{self._root}/")


def thaw_journal(journal_path: str, cgroup_root: str) -> list[str]:
    """Thaw what a killed daemon left frozen, and clear its journal; returns the directories.

    No journal, or a torn one, means that nothing is frozen. Raises CorruptionError when a record
    leads out of `cgroup_root`, FreezeError when the kernel refuses to thaw.
    """
    try:
        descriptor = os.open(journal_path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        names = _decode(os.pread(descriptor, FREEZE_JOURNAL_BYTES_MAX, 0))
        thawed = [d for name in names if thaw_by_name(d := f"{cgroup_root.rstrip('/')}/{name}")]
        os.pwrite(descriptor, _CLEARED, 0)
    finally:
        os.close(descriptor)
    return thawed


def _decode(data: bytes) -> list[str]:
    if len(data) < _HEAD.size:
        return []
    magic, length, checksum, _ = _HEAD.unpack_from(data)
    body = data[_HEAD.size : _HEAD.size + length]
    if magic != _MAGIC or len(body) != length or zlib.crc32(body) != checksum:
        return []
    names = [os.fsdecode(name) for name in body.split(b"\0")[:-1]]
    for name in names:
        if os.path.normpath(name) != name or name.startswith(("/", "..")):
            raise CorruptionError(f"the freeze journal names {name!r}, which is no cgroup of ours")
    return names


def thaw_by_name(directory: str) -> bool:
    """True when the cgroup is there and was frozen. Raises FreezeError as `Cgroup.thaw` does."""
    cgroup = Cgroup.open(directory)
    if cgroup is None:
        return False
    try:
        requested = cgroup.requested()
        if requested:
            cgroup.thaw()
        return requested
    finally:
        cgroup.close()
