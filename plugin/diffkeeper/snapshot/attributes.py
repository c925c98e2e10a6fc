"""The extended attributes of a file that can be recorded."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from diffkeeper.format import xattrs
from diffkeeper.fsio import inode


@dataclass(frozen=True, slots=True)
class Attributes:
    """`kept`: name to value. `left_out`: which are missing, in words for a person; or ""."""

    kept: dict[bytes, bytes] = field(default_factory=dict)
    left_out: str = ""


def recordable(pin: int) -> Attributes:
    """Recordable attributes of the inode that `pin` (O_PATH or not) refers to; raises OSError when
    none can be read.

    File systems such as XFS hold more than one record can, and more names than the kernel lists.
    """
    try:
        found = inode.xattrs(pin)
    except OSError as error:
        if error.errno != errno.E2BIG:
            raise
        text = "extended attributes but those of the system: their names exceed what can be listed"
        return Attributes(inode.system_xattrs(pin), text)
    kept = xattrs.within_bounds(found)
    left = len(found) - len(kept)
    return Attributes(kept, f"{left} extended attributes, which are too large" if left else "")
