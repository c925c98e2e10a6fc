"""A note outside of the store's disk that there is a store: one that is not there is missed.

A disk that is not mounted, or a setting that an upgrade took back, leaves an empty directory where
the store was. An empty store begun there would have the engine forget all of its volumes.
"""

from __future__ import annotations

import os
from typing import Final

from diffkeeper.errors import CorruptionError
from diffkeeper.fsio import durable, mounts

NOTE: Final = ".diffkeeper-store"


def refuse_missing(state_dir: str, mount_dir: str) -> None:
    """CorruptionError where a note says that a store is here, and nothing of one is."""
    if any(os.path.lexists(os.path.join(state_dir, name)) for name in ("store", "volumes")):
        return
    # Of a disk that is not mounted the mount point may be any directory on the way to it.
    notes = [os.path.join(mount_dir, NOTE)]
    # As `leave` finds it: a link on the way leads to the disk. It has no leading "//" either.
    point = os.path.realpath(state_dir)
    while point != "/":
        notes.append(_beside(point))
        point = os.path.dirname(point)
    for note in notes:
        if _read(note) == state_dir:
            raise CorruptionError(
                f"there is no store in {state_dir}, although {note} says that there is one: is its"
                " disk mounted, and state.source or --state-dir as it was? To begin a new store,"
                f" delete {note}"
            )


def leave(state_dir: str, mount_dir: str) -> None:
    """Note that there is a store, where that outlives its disk; nowhere if nothing does.

    The managed plugin's mount directory is a mount of its own, and outlives its upgrades; beside
    the mount point of a disk there is another file system.
    """
    point = _mount_point(state_dir)
    if _mount_point(mount_dir) != point:
        note = os.path.join(mount_dir, NOTE)
    elif point != "/":
        note = _beside(point)
    else:
        return
    if _read(note) != state_dir:
        durable.write_file(note, os.fsencode(state_dir))


def _mount_point(directory: str) -> str:
    points = {mount.point for mount in mounts.own_mounts()}
    point = os.path.realpath(directory)
    while point not in points and point != "/":
        point = os.path.dirname(point)
    return point


def _beside(point: str) -> str:
    return os.path.join(os.path.dirname(point), f"{NOTE}-{os.path.basename(point)}")


def _read(note: str) -> str:
    try:
        with open(note, "rb") as file:
            return os.fsdecode(file.read(4096))
    except (FileNotFoundError, NotADirectoryError):
        return ""
