"""The kernel's tracepoints as described in tracefs, and the headers for bcc."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from diffkeeper.errors import UnsupportedError
from diffkeeper.fsio import linux

_TRACEFS = "/sys/kernel/tracing"
_ROOTS = (_TRACEFS, "/sys/kernel/debug/tracing")
_FIELD = re.compile(r"field:(.*?)\s*(\w+)(?:\[\w*\])?;\s*offset:\d+;\s*size:(\d+);")
_FLAG = re.compile(r"\{\s*\(1 << (\d+)\),\s*\"(\w+)\"\s*\}")
_HEADERS = ("include/linux/kconfig.h", "include/linux/types.h", "include/generated/autoconf.h")
_SHIPPED = Path("/usr/share/diffkeeper")
_CHECKOUT = Path(__file__).parents[4]


@dataclass(frozen=True, slots=True)
class Format:
    """One tracepoint: size of each field, and bits of flags, by their names."""

    sizes: dict[str, int]
    flags: dict[str, int]


def mounted() -> bool:
    """Whether tracefs is mounted already."""
    return any(os.path.isdir(f"{root}/events") for root in _ROOTS)


@cache
def events() -> Path:
    """The folder of tracepoints; mounts tracefs if nobody has. UnsupportedError without it."""
    for root in _ROOTS:
        if os.path.isdir(f"{root}/events"):
            return Path(root, "events")
    try:
        linux.mount_tracefs(_TRACEFS)
    except OSError as error:
        raise UnsupportedError(f"tracefs cannot be mounted: {error.strerror}") from error
    if not os.path.isdir(f"{_TRACEFS}/events"):
        raise UnsupportedError("the kernel has no tracepoints")
    return Path(_TRACEFS, "events")


def read(event: str) -> Format | None:
    """The format of the tracepoint `category/name`; None if the kernel does not have it."""
    try:
        text = (events() / event / "format").read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnsupportedError(f"tracepoints cannot be read: {error.strerror}") from error
    sizes = {name: int(size) for _, name, size in _FIELD.findall(text)}
    return Format(sizes, {name: 1 << int(bit) for bit, name in _FLAG.findall(text)})


def usable(event: str) -> bool:
    """Whether the kernel has the tracepoint, in a form that our programs read."""
    found = read(event)
    if found is None:
        return False
    if event.startswith("xfs/"):
        # The sizes that bpf/xfs_types.h gives to XFS's own names of types.
        return all(size == 8 for name, size in found.sizes.items() if "ino" in name)
    return True


def programs() -> Path:
    """The folder with the sources of the eBPF programs. UnsupportedError if it is missing."""
    for found in (_SHIPPED / "bpf", _CHECKOUT / "bpf"):
        if (found / "marks.h").is_file():
            return found
    raise UnsupportedError("the sources of the eBPF programs are not installed")


def header_sets(wanted: str = "") -> list[Path]:
    """Kernel headers to try, best first: `wanted` only, or this kernel's and ours.

    Raises UnsupportedError if there are none.
    """
    if wanted:
        missing = _unfit(Path(wanted))
        if missing:
            raise UnsupportedError(f"no kernel headers in {wanted}, the setting: {missing}")
        return [Path(wanted)]
    own = Path("/lib/modules", platform.release(), "build")
    places = [own, _SHIPPED / "headers", _CHECKOUT / "build" / "headers"]
    found = [place for place in places if not _unfit(place)]
    if not found:
        raise UnsupportedError("no kernel headers to compile eBPF programs with")
    return found


def _unfit(place: Path) -> str:
    """What bcc would miss in a folder of headers; "" if it has everything."""
    for needed in _HEADERS:
        if not (place / needed).is_file():
            return f"{needed} is missing"
    return ""


def header_bytes(place: Path) -> int:
    """Size of all files of a set of headers."""
    files = (os.path.join(top, name) for top, _, names in os.walk(place) for name in names)
    return sum(os.lstat(file).st_size for file in files)
