"""Files of a volume that are mapped through an overlay, as by containers within a container.

Where the upper directory of an overlay is in a volume, the kernel reports the mapping with the
overlay's device, and with an inode number that need not be the file's own. So the file is looked up
by its path in the overlay, below the upper directory, as seen by a process that has the volume.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from diffkeeper.freeze.processes import directories, read_of
from diffkeeper.fsio import linux, mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OVERLAID_MAX = 500  # files mapped through overlays that are looked up for one volume at a time
OVERLAY_WITNESSES_MAX = 8

_DELETED = b" (deleted)"
Foreign = tuple[int, str, bytes]  # process, device of the mapping, path in its namespace


def upper_inodes(
    proc_root: str, found: Iterable[Foreign], witnesses: Sequence[int], device: int
) -> set[int]:
    """Inode numbers of those files that are on `device` (as in st_dev) for one of `witnesses`.

    witnesses: processes that may see the upper directory. Files that are gone are skipped.
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
    """The overlays that a process sees, newest first; none when it is exiting."""
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
