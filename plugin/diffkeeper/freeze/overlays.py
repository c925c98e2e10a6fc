"""Files of a volume that are mapped through an overlay, as by containers within a container.

Where the upper directory of an overlay is in a volume, the kernel reports the mapping with the
overlay's device, and with an inode number that need not be the file's own. So the file is looked up
by its path in the overlay, below the upper directory, as seen by a process that has the volume.
"""

from __future__ import annotations

import contextlib
import os
from functools import cache, partial
from typing import TYPE_CHECKING

from diffkeeper.freeze.process_root import ProcessRoot
from diffkeeper.freeze.processes import directories, read_of
from diffkeeper.fsio import mountinfo

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

    witnesses: processes that may see the upper directory. Files that are gone are skipped, and so
    is what lies on a file system that may not answer, since a freeze may wait for this.
    """
    inodes: set[int] = set()
    look = cache(partial(_root, proc_root))
    tables: dict[int, list[mountinfo.Mount]] = {}
    for pid, dev, name in sorted(found)[:OVERLAID_MAX]:
        if pid not in tables:
            tables[pid] = _overlays(proc_root, pid)
        for mount in tables[pid]:
            if mount.device == dev and mount.upper:
                path = os.fsdecode(name.removesuffix(_DELETED))
                where = mount.upper + mountinfo.inside(mount, path)
                inodes |= _located(where, map(look, witnesses[:OVERLAY_WITNESSES_MAX]), device)
                break
    return inodes


def _overlays(proc_root: str, pid: int) -> list[mountinfo.Mount]:
    """The overlays that a process sees, newest first; none when it is exiting."""
    table = mountinfo.parse(read_of(proc_root, pid, "mountinfo"))
    return [mount for mount in reversed(table) if mount.fs_type == "overlay"]


def _root(proc_root: str, pid: int) -> ProcessRoot | None:
    """The root directory of a process; None when it is exiting."""
    for directory in directories(proc_root, pid):
        with contextlib.suppress(OSError):
            return ProcessRoot(directory)
    return None


def _located(path: str, roots: Iterable[ProcessRoot | None], device: int) -> set[int]:
    for root in filter(None, roots):
        try:
            opened = root.open(path)
        except OSError:
            continue
        try:
            status = os.fstat(opened)
        finally:
            os.close(opened)
        if status.st_dev == device:
            return {status.st_ino}
    return set()
