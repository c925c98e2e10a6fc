"""mountinfo as bytes in, mounts out."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from diffkeeper.errors import NotFoundError

# Fields of proc(5): mount id, parent id, major:minor, root, mount point, options.
_LINE = re.compile(rb"^(\d+) \d+ (\d+:\d+) (\S+) (\S+) (\S+)", re.MULTILINE)
_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount: `root` is the mounted directory inside its file system, `dev` is that one's."""

    id: int
    dev: str
    root: str
    point: str
    writable: bool


@dataclass(frozen=True, slots=True)
class Target:
    """A directory, whatever it is mounted as.

    `dev`: its file system as "major:minor", as mountinfo shows it (on btrfs that is not `st_dev`);
    `root`: its path inside that file system.
    """

    dev: str
    root: str

    @classmethod
    def of(cls, path: str) -> Target:
        """The target that `path` (in our own mount namespace) leads to; raises NotFoundError."""
        try:
            descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise NotFoundError(f"{path}: {error.strerror}") from error
        try:
            real = os.readlink(f"/proc/self/fd/{descriptor}")
            mount_id = _mount_id(descriptor)
        finally:
            os.close(descriptor)
        with open("/proc/self/mountinfo", "rb") as file:
            mount = {mount.id: mount for mount in parse(file.read())}.get(mount_id)
        if mount is None:
            raise NotFoundError(f"{path}: its mount is not in our mount namespace")
        inside = os.path.relpath(real, mount.point)
        return cls(mount.dev, os.path.normpath(f"{mount.root.rstrip('/')}/{inside}"))

    def holds(self, root: str) -> bool:
        """True when `root` on the same file system is this directory or below it."""
        return root == self.root or self.root == "/" or root.startswith(f"{self.root}/")


def parse(mountinfo: bytes) -> list[Mount]:
    """All mounts of a `/proc/PID/mountinfo`, in its order."""
    return [
        Mount(int(number), dev.decode(), _path(root), _path(point), options.startswith(b"rw"))
        for number, dev, root, point, options in _LINE.findall(mountinfo)
    ]


def _path(field: bytes) -> str:
    plain = _ESCAPE.sub(lambda found: bytes([int(found[1], 8)]), field) if b"\\" in field else field
    return os.fsdecode(plain)


def _mount_id(descriptor: int) -> int:
    with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
        for line in file:
            name, _, value = line.partition(b":")
            if name == b"mnt_id":
                return int(value)
    raise NotFoundError("the kernel shows no mount ids")
