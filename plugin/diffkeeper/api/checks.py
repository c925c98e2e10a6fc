"""The doctor: what this machine offers, what is missing, what that costs, how to mend it.

Each check looks at the thing itself (a file that opens, a directory that can be written), never at
a version.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from diffkeeper import limits
from diffkeeper.volumes.options import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Result = Literal["ok", "warn", "fail"]

INOTIFY_WATCHES_WANTED = 65_536
INOTIFY_INSTANCES_WANTED = 128
INOTIFY_EVENTS_WANTED = 16_384
FREE_BYTES_WANTED = limits.GIB
CAP_SYS_ADMIN = 21


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `cost` and `mend` are empty when the result is ok."""

    name: str
    result: Result
    found: str
    cost: str = ""
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Places:
    """Directories that the checks look at."""

    state_dir: str
    cgroup_root: str
    proc_root: str
    sys_root: str = "/sys"
    modules_root: str = "/lib/modules"


def run(places: Places) -> list[Check]:
    """Every check that needs no daemon; reads a few small files, changes nothing."""
    checks: list[Callable[[Places], Check]] = [
        kernel,
        privileges,
        freezer,
        inotify,
        btf,
        headers,
        space,
    ]
    return [check(places) for check in checks]


def kernel(places: Places) -> Check:
    """The running kernel, for the reader's information."""
    machine = os.uname()
    return Check("kernel", "ok", f"{machine.sysname} {machine.release} {machine.machine}")


def privileges(places: Places) -> Check:
    """Whether this process may mount and freeze: CAP_SYS_ADMIN in its effective set."""
    status = _read(f"{places.proc_root}/self/status")
    lines = [line for line in status.splitlines() if line.startswith("CapEff:")]
    held = int(lines[0].split()[1], 16) if lines else 0
    if held >> CAP_SYS_ADMIN & 1:
        return Check("privileges", "ok", "CAP_SYS_ADMIN is held")
    return Check(
        "privileges",
        "fail",
        "CAP_SYS_ADMIN is missing",
        "no volume can be mounted and no writer frozen",
        "run as root, or install the managed plugin and grant what it asks for",
    )


def freezer(places: Places) -> Check:
    """Which cgroup freezer there is, and whether it can be written."""
    root = places.cgroup_root
    candidates = (
        (f"{root}/freezer", "v1 freezer", "tasks"),
        (root, "v2", "cgroup.controllers"),
        (f"{root}/unified", "v2 (hybrid)", "cgroup.controllers"),
    )
    present = [(path, kind) for path, kind, mark in candidates if os.path.exists(f"{path}/{mark}")]
    for path, kind in present:
        if _writable(path):
            return Check("freezer", "ok", f"cgroup {kind} at {path}, writable")
    found = f"{present[0][0]} can not be written" if present else f"no cgroup freezer below {root}"
    return Check(
        "freezer",
        "fail",
        found,
        "writers can not be frozen: snapshots are fuzzy, and none is restored by default",
        "give the plugin the host's cgroup tree writable, or mount one (--cgroup-root)",
    )


def inotify(places: Places) -> Check:
    """The kernel's limits on inotify."""
    wanted = {
        "max_user_watches": INOTIFY_WATCHES_WANTED,
        "max_user_instances": INOTIFY_INSTANCES_WANTED,
        "max_queued_events": INOTIFY_EVENTS_WANTED,
    }
    base = f"{places.proc_root}/sys/fs/inotify"
    found = {name: _number(f"{base}/{name}") for name in wanted}
    if all(value is None for value in found.values()):
        return Check(
            "inotify",
            "warn",
            "the kernel has no inotify",
            "every capture scans the whole volume",
            "use a kernel with CONFIG_INOTIFY_USER",
        )
    low = {name: least for name, least in wanted.items() if (found[name] or 0) < least}
    text = ", ".join(f"{name} {value}" for name, value in found.items())
    if not low:
        return Check("inotify", "ok", text)
    mend = " ".join(f"fs.inotify.{name}={least}" for name, least in low.items())
    return Check(
        "inotify",
        "warn",
        text,
        "volumes with many directories or bursts of changes are scanned instead of watched",
        f"sysctl -w {mend}",
    )


def btf(places: Places) -> Check:
    """The kernel's type information, which eBPF programs need."""
    path = f"{places.sys_root}/kernel/btf/vmlinux"
    if os.access(path, os.R_OK):
        return Check("btf", "ok", path)
    return Check(
        "btf",
        "warn",
        f"{path} is missing",
        "changed files are found by inotify or a scan and read whole",
        "use a kernel with CONFIG_DEBUG_INFO_BTF",
    )


def headers(places: Places) -> Check:
    """Kernel headers, with which bcc compiles its programs."""
    release = os.uname().release
    candidates = (
        f"{places.modules_root}/{release}/build/include",
        f"{places.sys_root}/kernel/kheaders.tar.xz",
    )
    for path in candidates:
        if os.path.exists(path):
            return Check("headers", "ok", path)
    return Check(
        "headers",
        "warn",
        f"no headers of the running kernel {release}",
        "bcc can not compile for exactly this kernel; inotify and scan need no headers",
        f"apt-get install linux-headers-{release}, or load the kheaders module",
    )


def space(places: Places) -> Check:
    """Room on the file system of the state directory, or of its nearest existing parent."""
    path = places.state_dir
    while not os.path.isdir(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    filesystem = os.statvfs(path)
    free = filesystem.f_bavail * filesystem.f_frsize
    text = f"{format_size(free)} free at {path}"
    if free >= FREE_BYTES_WANTED:
        return Check("space", "ok", text)
    full = free < limits.STORE_RESERVE_BYTES_MAX
    cost = "no snapshot can be stored" if full else "snapshots stop when it runs out"
    mend = "free some space, or put --state-dir on a larger disk"
    return Check("space", "fail" if full else "warn", text, f"{cost}; live data is safe", mend)


def health(troubles: Sequence[str]) -> Check:
    """The daemon's own troubles as one finding."""
    if not troubles:
        return Check("health", "ok", "the daemon reports no trouble")
    return Check(
        "health",
        "fail",
        "; ".join(troubles),
        "what the troubles name does not work until they are gone",
        "see the plugin's log and `diffkeeper inspect VOLUME`",
    )


def _writable(path: str) -> bool:
    read_only = os.statvfs(path).f_flag & os.ST_RDONLY
    return not read_only and os.access(path, os.W_OK)


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(limits.MIB)
    except FileNotFoundError:
        return ""


def _number(path: str) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None
