"""The host's name of one of our directories, and whether it leads to the same directory.

The managed plugin sees the host's directories below mounts of its own: a disk that the host mounts
later, or below, is not in them. Process 1 sees what users of the host see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffkeeper.errors import NotFoundError
from diffkeeper.fsio import mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class OnHost:
    """A directory as process 1 has it.

    path: its name there; "" if it has none, or that cannot be found out. covered: the name that
    should lead to it, if the host has another file system mounted there, or above.
    """

    path: str = ""
    covered: str = ""


def of(directory: str, proc_root: str) -> OnHost:
    """The host's name of an existing directory. `proc_root`: the host's /proc.

    From mount tables only, since a container may not look into process 1's directories.
    """
    try:
        device, inside, _ = mountinfo.locate(directory)
        found = mountinfo.mounts_of("1", proc_root)
    except (OSError, NotFoundError):
        return OnHost()
    names = list(_names(found, device, inside))
    path = next((name for name in names if _leads_to(found, name) == (device, inside)), "")
    return OnHost(path, "" if path == names[0] else names[0]) if names else OnHost()


def mount_of(directory: str, proc_root: str) -> str:
    """Where the host has the file system of an existing directory mounted; "" if unknown."""
    path = of(directory, proc_root).path
    try:
        found = mountinfo.mounts_of("1", proc_root) if path else []
    except OSError:
        return ""
    return next((mount.point for mount in reversed(found) if _below(path, mount.point)), "")


def _names(found: list[mountinfo.Mount], device: str, inside: str) -> Iterator[str]:
    """Names that the mount table gives for it, those through the highest directory first."""
    holding = [mount for mount in found if mount.device == device and _below(inside, mount.root)]
    for mount in sorted(holding, key=lambda mount: len(mount.root)):
        rest = inside.removeprefix(mount.root.rstrip("/")).lstrip("/")
        yield f"{mount.point.rstrip('/')}/{rest}".rstrip("/") or "/"


def _leads_to(found: list[mountinfo.Mount], name: str) -> tuple[str, str]:
    """Device and path inside it of a name without links: later mounts cover earlier ones."""
    mount = next(mount for mount in reversed(found) if _below(name, mount.point))
    return mount.device, mountinfo.inside(mount, name)


def _below(path: str, directory: str) -> bool:
    return f"{path.rstrip('/')}/".startswith(f"{directory.rstrip('/')}/")
