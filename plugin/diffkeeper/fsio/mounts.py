"""What is mounted where, and where a directory lies in its file system."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from diffkeeper.errors import NotFoundError
from diffkeeper.fsio import linux

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo(5): device "major:minor", root in the file system, point, type."""

    device: str
    root: str
    point: str
    fs_type: str


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def parse_mountinfo(text: str) -> list[Mount]:
    """All mounts of a mountinfo file, in order; later ones cover earlier ones."""
    mounts = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        mounts.append(
            Mount(fields[2], _unescape(fields[3]), _unescape(fields[4]), after.split(" ")[0])
        )
    return mounts


def own_mounts() -> list[Mount]:
    """The mounts of this process's namespace."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mountinfo(file.read())


def is_mounted(point: str) -> bool:
    """Whether something is mounted exactly at `point`."""
    wanted = os.path.realpath(point)
    return any(mount.point == wanted for mount in own_mounts())


def locate(directory: str) -> tuple[str, str, str]:
    """Device "major:minor", path inside that file system, and file system type of a directory.

    This is how the same directory shows in the mountinfo of any container that has it mounted.
    """
    path = os.path.realpath(directory)
    best: Mount | None = None
    for mount in own_mounts():
        prefix = mount.point.rstrip("/")
        below = path == mount.point or path.startswith(prefix + "/")
        if below and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    if best is None:
        raise NotFoundError(f"no mount holds {directory}")
    rest = path[len(best.point.rstrip("/")) :]
    root = (best.root.rstrip("/") + rest).rstrip("/") or "/"
    return best.device, root, best.fs_type


def disk_of(device: int) -> int:
    """The disk (as in st_dev) that the partition `device` is on; of anything else, itself."""
    path = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    if not os.path.exists(f"{path}/partition"):
        return device
    with open(f"{path}/../dev", encoding="ascii") as file:
        major, minor = file.read().split(":")
    return os.makedev(int(major), int(minor))


def bind(source: str, point: str) -> None:
    """Bind `source` at `point` (created when missing) unless something is mounted there already."""
    os.makedirs(point, mode=0o700, exist_ok=True)
    if not is_mounted(point):
        linux.mount_bind(source, point)


def unbind(point: str) -> None:
    """Remove the mount at `point`, lazily when it is busy; nothing mounted is not an error."""
    while is_mounted(point):
        try:
            linux.unmount(point)
        except OSError:
            linux.unmount(point, linux.MNT_DETACH)
