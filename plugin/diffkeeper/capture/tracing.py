"""The kernel's tracepoints as tracefs tells them, and the headers that bcc compiles with."""

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
_SHIPPED = Path("/usr/share/diffkeeper")
_CHECKOUT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Format:
    """One tracepoint: bytes of each field by its name, and bits of flags by their name."""

    sizes: dict[str, int]
    flags: dict[str, int]


@cache
def events() -> Path:
    """The folder of tracepoints; mounts tracefs where nobody has. UnsupportedError without it."""
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
    """The format of the tracepoint `category/name`; None where the kernel has none such."""
    try:
        text = (events() / event / "format").read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnsupportedError(f"tracepoints cannot be read: {error.strerror}") from error
    sizes = {name: int(size) for _, name, size in _FIELD.findall(text)}
    return Format(sizes, {name: 1 << int(bit) for bit, name in _FLAG.findall(text)})


def programs() -> Path:
    """The folder of the eBPF programs' sources. UnsupportedError where it is missing."""
    for found in (_SHIPPED / "bpf", _CHECKOUT / "bpf"):
        if (found / "marks.h").is_file():
            return found
    raise UnsupportedError("the sources of the eBPF programs are not installed")


def headers(wanted: str = "") -> Path:
    """Kernel headers for bcc: `wanted`, those of this kernel, or those that are shipped."""
    own = Path("/lib/modules", platform.release(), "build")
    places = [own, _SHIPPED / "headers", _CHECKOUT / "build" / "headers"]
    for found in [Path(wanted)] if wanted else places:
        if (found / "include" / "linux").is_dir():
            return found
    raise UnsupportedError("no kernel headers to compile eBPF programs with")
