"""Files of a volume that processes have mapped through an overlay, as containers in a container do.

Where the upper directory of an overlay lies in a volume, the kernel shows the mapping with the
overlay's device, and with an inode number that need not be the file's own. So the file is found by
its path in the overlay, below the upper directory, as a process sees it that has the volume.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from diffkeeper.freeze.processes import directories, read_of
from diffkeeper.fsio import linux, mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OVERLAID_MAX = 500  # files mapped through overlays that are looked for, of one volume at a time
OVERLAY_WITNESSES_MAX = 8

_DELETED = b" (deleted)"
Foreign = tuple[int, str, bytes]  # process, device of the mapping, path in its namespace


def upper_inodes(
    proc_root: str, found: Iterable[Foreign], witnesses: Sequence[int], device: int
) -> set[int]:
    """Inode numbers of those files that lie on `device` (as in st_dev) for one of `witnesses`.

    witnesses: processes that may see the upper directory. Raises nothing for what is gone.
    """
    inodes: set[int] = set()
    tables: dict[int, list[mountinfo.Mount]] = {}
    for pid, dev, name in sorted(found)[:OVERLAID_MAX]:
        if pid not in tables:
            tables[pid] = _overlays(proc_root, pid)
        for mount in tables[pid]:
            if mount.device == dev and mount.upper:
                path = os.fsdecode(name.removesuffix(_DELETED))
                where = mount.upper + mountinfo.inside(mount, path)
                inodes |= _located(proc_root, where, witnesses[:OVERLAY_WITNESSES_MAX], device)
                break
    return inodes


def _overlays(proc_root: str, pid: int) -> list[mountinfo.Mount]:
    """The overlays that a process sees, the newest first; none when it is ending."""
    table = mountinfo.parse(read_of(proc_root, pid, "mountinfo"))
    return [mount for mount in reversed(table) if mount.fs_type == "overlay"]


def _located(proc_root: str, path: str, witnesses: Sequence[int], device: int) -> set[int]:
    for directory in (path for pid in witnesses for path in directories(proc_root, pid)):
        try:
            root = os.open(f"{directory}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            opened = linux.open_in_root(root, path)
        except OSError:
            continue
        finally:
            os.close(root)
        try:
            status = os.fstat(opened)
        finally:
            os.close(opened)
        if status.st_dev == device:
            return {status.st_ino}
    return set()
