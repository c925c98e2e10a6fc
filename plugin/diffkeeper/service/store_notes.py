"""Notes outside of the store's disk that say that there is a store, so that its absence shows.

A disk that is not mounted, or a setting that an upgrade reset, leaves an empty directory where the
store was. An empty store created there would make the engine forget all of its volumes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from diffkeeper.errors import StoreMissingError
from diffkeeper.fsio import durable, hostpath, mountinfo
from diffkeeper.volumes.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTE: Final = ".diffkeeper-store"


def refuse_missing(state_dir: str, mount_dir: str, proc_root: str) -> None:
    """StoreMissingError where there is no store, although one should be, or could be hidden.

    A note may say that one is here. And the host may have mounted a disk on this very directory
    which is not among our mounts: what we stored would be hidden below it.
    """
    if _is_store(state_dir):
        _refuse_older(state_dir, proc_root)
        return
    for note in _notes(state_dir, mount_dir):
        if _read(note) == state_dir:
            raise StoreMissingError(
                f"there is no store in {state_dir}, although {note} says that there is one: is its"
                " disk mounted, and state.source or --state-dir as it was? To begin a new store,"
                f" delete {_named(note, proc_root)}"
            )
    covered = hostpath.of(state_dir, proc_root).covered
    if covered:
        raise StoreMissingError(
            f"there is no store in {state_dir}, and the host has another disk on {covered}, which"
            " is not to be seen from here: what is stored would lie beneath it. Set state.source to"
            f" a directory on that disk, such as {covered} itself, or unmount the disk"
        )


def _refuse_older(state_dir: str, proc_root: str) -> None:
    """StoreMissingError where this store is hidden by the disk of the one in use.

    It was left there when the store was moved to a disk: its volumes are as they were then.
    """
    points = {mount.point for mount in mountinfo.own_mounts()}
    for point in _ways(state_dir):
        if point not in points and _read(_beside(point)) == state_dir:
            raise StoreMissingError(
                f"the store in {state_dir} is an older one: that in use was on a disk mounted on"
                f" {point}, which is not. Mount it; to use the older one from now on, delete"
                f" {_named(_beside(point), proc_root)}"
            )


def leave(state_dir: str, mount_dir: str) -> None:
    """Leave notes that there is a store, at every place that outlives its disk.

    The managed plugin's mount directory is a mount of its own, and outlives upgrades; beside the
    mount point of a disk there is another file system. Either may be gone after a reboot.
    """
    point = _mount_point(state_dir)
    notes = [_beside(point)] if point != "/" else []
    if _mount_point(mount_dir) != point:
        notes.append(os.path.join(mount_dir, NOTE))
    for note in notes:
        if _read(note) != state_dir:
            durable.write_file(note, os.fsencode(state_dir))


def _is_store(state_dir: str) -> bool:
    layout = Layout(state_dir, "")
    if any(os.path.lexists(os.path.join(layout.store, name)) for name in ("data.mdb", "lock")):
        return True
    volumes = layout.volumes
    return os.path.isdir(volumes) and any(name.isdecimal() for name in os.listdir(volumes))


def _notes(state_dir: str, mount_dir: str) -> Iterator[str]:
    """Places of notes: the mount point of a disk that is not mounted may be any directory on the
    path.
    """
    yield os.path.join(mount_dir, NOTE)
    for point in _ways(state_dir):
        yield _beside(point)


def _ways(state_dir: str) -> Iterator[str]:
    """The directory and its parents, except the root."""
    # As `leave` resolves it: a link on the path leads to the disk. It has no leading "//" either.
    point = os.path.realpath(state_dir)
    while point != "/":
        yield point
        point = os.path.dirname(point)


def _named(note: str, proc_root: str) -> str:
    """Path of the note, also as the host names it, if that differs."""
    directory = hostpath.of(os.path.dirname(note), proc_root).path
    on_host = os.path.join(directory, os.path.basename(note)) if directory else note
    return note if on_host == note else f"{note} ({on_host} on the host)"


def _mount_point(directory: str) -> str:
    points = {mount.point for mount in mountinfo.own_mounts()}
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
