"""usage: bpf_trial.py HEADERS PROGRAMS [FILE]

Compiles and attaches the eBPF programs in the folder PROGRAMS with the kernel headers in HEADERS;
prints the tracepoints. With FILE: makes it, watches it, writes to it, prints the chunks marked.

Runs alone, in any interpreter: the plugin's own, inside the plugin, gets it by standard input.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

TRACEFS = "/sys/kernel/tracing"
CHUNK_BITS = 16
MACROS = {"CHUNKS_MAX": 1024, "FILES_MAX": 1024, "WATCHED_MAX": 1024, "VOLUMES_MAX": 16}
MACROS |= {"WRITES_MAX": 64, "RANGE_CHUNKS_MAX": 64, "PLACES_MAX": 16, "DISK_PLACES_MAX": 4}
MACROS |= {"MAPPED_BITS": 21, "PAGE_BITS": 12, "IOMAP_WRITE": 1, "IOMAP_DIRECT": 16}


def events_of(source: str) -> list[str]:
    return ["/".join(found) for found in re.findall(r"TRACEPOINT_PROBE\((\w+), (\w+)\)", source)]


def mount_tracefs() -> None:
    """The same as the plugin does where nobody has mounted it."""
    if not os.path.isdir(f"{TRACEFS}/events"):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"tracefs", TRACEFS.encode(), b"tracefs", 0, None):
            sys.exit(f"tracefs: {os.strerror(ctypes.get_errno())}")


def load(headers: str, programs: Path) -> tuple[Any, list[str]]:
    """The programs whose tracepoints this kernel has, attached."""
    os.environ["BCC_KERNEL_SOURCE"] = headers
    sys.path.append("/usr/lib/python3/dist-packages")
    # The loop uses what others define, and comes after them.
    order = sorted(programs.glob("*.c"), key=lambda path: (path.name == "iomap.c", path.name))
    texts = [path.read_text() for path in order]
    texts = [
        text
        for text in texts
        if all(os.path.isdir(f"{TRACEFS}/events/{event}") for event in events_of(text))
    ]
    shared = [(programs / name).read_text() for name in ("marks.h", "xfs_types.h")]
    told = any("iomap_dio_complete" in event for text in texts for event in events_of(text))
    macros = MACROS | {"DIRECT_END": int(told)}
    flags = [f"-D{name}={value}" for name, value in macros.items()]
    bcc = importlib.import_module("bcc")
    loaded = bcc.BPF(text="\n".join(shared + texts), cflags=flags)
    return loaded, [event for text in texts for event in events_of(text)]


def chunks_written(loaded: Any, path: str) -> list[int]:
    """Chunks marked by one write to the second chunk of a new file."""
    with open(path, "wb") as file:
        file.write(bytes(4 << CHUNK_BITS))
        file.flush()
        seen = os.fstat(file.fileno())
        device = os.major(seen.st_dev) << 20 | os.minor(seen.st_dev)
        watched = loaded[b"watched"]
        watched[watched.Key(seen.st_ino, device, 0)] = watched.Leaf(1, CHUNK_BITS)
        os.pwrite(file.fileno(), b"x", (1 << CHUNK_BITS) + 5)
        # Kind 0 are the marks of what is done.
        return sorted(key.chunk for key in loaded[b"chunks"].keys() if key.kind == 0)  # noqa: SIM118


def main(headers: str, programs: str, path: str = "") -> None:
    mount_tracefs()
    loaded, events = load(headers, Path(programs))
    print("events", *events)
    if path:
        print("chunks", *chunks_written(loaded, path))


if __name__ == "__main__":
    main(*sys.argv[1:])
