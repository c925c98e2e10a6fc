"""Content that an ioctl(2) moves between two files, without a write to either."""

from __future__ import annotations

import errno
import fcntl
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_CRC32C = 0x82F63B78  # the polynomial, reflected
_SECTOR_BYTES = 512
_INCOMPATIBLE, _CRC, _EXCHANGE_RANGE = 216, 224, 64  # in the superblock of XFS
# struct xfs_exchange_range: fd of the first file, then offsets, length, flags; since Linux 6.10.
_XFS_RANGE = struct.Struct("=iIQQQQ")
_XFS_IOC_EXCHANGE_RANGE = 1 << 30 | _XFS_RANGE.size << 16 | ord("X") << 8 | 129


def allow_exchange(image: Path) -> None:
    """Set the feature in a new XFS, which mkfs.xfs does since 6.10."""
    with open(image, "r+b") as file:
        block = bytearray(file.read(_SECTOR_BYTES))
        (features,) = struct.unpack_from(">I", block, _INCOMPATIBLE)
        struct.pack_into(">I", block, _INCOMPATIBLE, features | _EXCHANGE_RANGE)
        struct.pack_into("<I", block, _CRC, 0)
        struct.pack_into("<I", block, _CRC, _crc32c(bytes(block)))
        file.seek(0)
        file.write(block)


def _crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (_CRC32C if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def exchange(first: Path, second: Path, length: int) -> bool:
    """XFS: exchange the first bytes of two files; false where the kernel cannot."""
    with open(first, "r+b") as one, open(second, "r+b") as two:
        request = _XFS_RANGE.pack(one.fileno(), 0, 0, 0, length, 0)
        try:
            fcntl.ioctl(two, _XFS_IOC_EXCHANGE_RANGE, request)
        except OSError as error:
            if error.errno not in (errno.ENOTTY, errno.EOPNOTSUPP):
                raise
            return False
    return True
