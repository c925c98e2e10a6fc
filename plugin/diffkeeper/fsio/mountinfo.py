"""What is mounted where, and where a directory is in its file system."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

from diffkeeper.errors import NotFoundError
from diffkeeper.fsio import linux

# File systems that answer without another process, on this machine or elsewhere.
LOCAL: Final = frozenset({"btrfs", "ext4", "overlay", "tmpfs", "xfs", "zfs"})

# The kernel escapes only these: any other byte, such as a form feed, stands for itself.
_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo(5).

    `device`: "major:minor" of its file system, which on btrfs is not `st_dev`; `root`: the mounted
    directory inside that; `point`: where it is mounted, as the process sees it; `parent`: id of
    the mount that holds the point; `writable`: the mount is, whatever the file system is; `upper`:
    of an overlay, the directory that takes what is written to it, as who mounted it sees it;
    `peers`: number of the group of mounts that get what is mounted below each other, or 0.
    """

    id: int
    parent: int
    device: str
    root: str
    point: str
    writable: bool
    fs_type: str
    upper: str = ""
    peers: int = 0


def parse(mountinfo: bytes) -> list[Mount]:
    """All mounts of a `/proc/PID/mountinfo`, in order; later ones cover earlier ones."""
    return [_mount(line) for line in mountinfo.split(b"\n") if line]


def _mount(line: bytes) -> Mount:
    before, _, after = line.partition(b" - ")
    number, parent, device, root, point, options, *more = before.split(b" ")
    return Mount(
        id=int(number),
        parent=int(parent),
        device=device.decode(),
        root=_path(root),
        point=_path(point),
        writable=options.startswith(b"rw"),
        fs_type=os.fsdecode(after.split(b" ")[0]),
        upper=_upper(after) if after.startswith(b"overlay ") else "",
        peers=_peers(more) if b" shared:" in before else 0,
    )


def _upper(after: bytes) -> str:
    """Upper directory from the fields of an overlay after the dash: type, source, options."""
    options = after.split(b" ")[-1].split(b",")
    found = next((each for each in options if each.startswith(b"upperdir=")), b"upperdir=")
    return _path(found.removeprefix(b"upperdir="))


def _peers(fields: list[bytes]) -> int:
    found = next(each for each in fields if each.startswith(b"shared:"))
    return int(found.removeprefix(b"shared:"))


def _path(field: bytes) -> str:
    plain = _ESCAPE.sub(lambda found: bytes([int(found[1], 8)]), field) if b"\\" in field else field
    return os.fsdecode(plain)


def own_mounts() -> list[Mount]:
    """The mounts of this process's namespace."""
    return mounts_of("self", "/proc")


def mounts_of(pid: str, proc_root: str) -> list[Mount]:
    """The mounts that a process sees; OSError."""
    with open(f"{proc_root}/{pid}/mountinfo", "rb") as file:
        return parse(file.read())


def namespace_of(directory: str) -> str:
    """Name of the mount namespace of a process, by its directory in /proc; empty if it is exiting.

    Without permission the process counts as a namespace of its own: its mounts can be read all the
    same.
    """
    try:
        return os.readlink(f"{directory}/ns/mnt")
    except PermissionError:
        return f"of {directory}"
    except OSError:
        return ""


def is_mounted(point: str) -> bool:
    """Whether something is mounted exactly at `point`."""
    wanted = os.path.realpath(point)
    return any(mount.point == wanted for mount in own_mounts())


def locate(directory: str) -> tuple[str, str, str]:
    """Device "major:minor", path inside that file system, and file system type of a directory.

    This is how the directory appears in the mountinfo of any container that has it mounted. Raises
    NotFoundError when it does not exist, or its mount is not in our namespace.
    """
    try:
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise NotFoundError(f"{directory}: {error.strerror}") from error
    try:
        real = os.readlink(f"/proc/self/fd/{descriptor}")
        number = _mount_id(descriptor)
    finally:
        os.close(descriptor)
    mount = next((mount for mount in own_mounts() if mount.id == number), None)
    if mount is None:
        raise NotFoundError(f"no mount of our namespace holds {directory}")
    return mount.device, inside(mount, real), mount.fs_type


def inside(mount: Mount, path: str) -> str:
    """Path inside the file system of `mount` for `path` in the namespace."""
    rest = path.removeprefix(mount.point.rstrip("/")).lstrip("/")
    return f"{mount.root.rstrip('/')}/{rest}".rstrip("/") or "/"


def _mount_id(descriptor: int) -> int:
    with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
        for line in file:
            name, _, value = line.partition(b":")
            if name == b"mnt_id":
                return int(value)
    raise NotFoundError("the kernel shows no mount ids")


def disk_of(device: int) -> int:
    """The disk (as in st_dev) of the partition `device`; for anything else, itself."""
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
