"""Whether our mounts are visible outside of our mount namespace, as to an engine that binds them.

A managed plugin's mount directory is shared with the host. An engine that is killed and started
again may unmount the host's side of it while it starts the plugin again: what is mounted then stays
inside, and containers get the empty directory below.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from diffkeeper.fsio import mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterator


def is_seen(point: str, proc_root: str) -> bool:
    """Whether the mount at `point` has a peer outside; true if it is not shared with anybody.

    `proc_root`: the host's /proc. Process 1 is asked first; others only if it has none.
    """
    real = os.path.realpath(point)
    own = next((each for each in reversed(mountinfo.own_mounts()) if each.point == real), None)
    if own is None or not own.peers:
        return True
    return any(own.peers in each for each in _groups(proc_root))


def _groups(proc_root: str) -> Iterator[set[int]]:
    """The peer groups in each mount namespace but ours."""
    seen = {mountinfo.namespace_of(f"{proc_root}/self")}
    yield _groups_of("1", proc_root)
    for pid in filter(str.isdecimal, os.listdir(proc_root)):
        if (namespace := mountinfo.namespace_of(f"{proc_root}/{pid}")) not in seen:
            seen.add(namespace)
            yield _groups_of(pid, proc_root)


def _groups_of(pid: str, proc_root: str) -> set[int]:
    with contextlib.suppress(OSError):
        return {mount.peers for mount in mountinfo.mounts_of(pid, proc_root)} - {0}
    return set()
