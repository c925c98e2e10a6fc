"""The doctor: what this machine offers, what is missing, what that costs, how to fix it.

Each check tries the thing itself (a file that opens, a directory that can be written, a program
that was loaded), never a version.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from diffkeeper import limits
from diffkeeper.fsio import hostpath
from diffkeeper.fsio import inotify as kernel_limits
from diffkeeper.fsio.room import Room, Share
from diffkeeper.messages.machine import Check
from diffkeeper.service.ebpf_features import less_than_asked
from diffkeeper.volumes.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from diffkeeper.messages.machine import FeatureView
    from diffkeeper.messages.volumes import VolumeView

SIZE_NEAR_FRACTION = 0.9  # fraction in use from which the doctor warns

# A share of the watches, and a few instances, are ours: others may need the rest.
INOTIFY_WANTED: Final = {
    **dict.fromkeys(kernel_limits.WATCHES, 65_536),
    **dict.fromkeys(kernel_limits.INSTANCES, 64),
    kernel_limits.QUEUED: 16_384,
}
FREE_BYTES_WANTED = limits.GIB
CAP_SYS_ADMIN = 21
SOURCES_SHOWN_MAX = 20
# What is lost without a feature of eBPF, and what to do about it.
EBPF_FALL_BACK = "volumes that ask for eBPF fall back to inotify: changed files are read whole"
EBPF_MENDS: Final = {
    "tracefs": (EBPF_FALL_BACK, "grant CAP_SYS_ADMIN, or mount tracefs at /sys/kernel/tracing"),
    "tracepoints": (EBPF_FALL_BACK, "use a kernel that has what the reason names"),
    "headers": (EBPF_FALL_BACK, "name a folder of kernel headers with --kernel-headers"),
    "bcc": (EBPF_FALL_BACK, "install python3-bpfcc; the managed plugin brings it along"),
    "programs": (
        EBPF_FALL_BACK,
        "see the reason; a low limit of locked memory is the service's LimitMEMLOCK",
    ),
    "direct-io-ends": (
        "what is written by direct I/O is read twice, half a minute apart",
        "use a kernel with the tracepoint iomap/iomap_dio_complete",
    ),
    "page-faults": (
        "more is read of files that may have been mapped",
        "use a kernel with the tracepoints filemap/mm_filemap_fault and mm_filemap_map_pages",
    ),
}
EBPF_FILE_SYSTEM: Final = (
    "volumes on this file system fall back to inotify",
    "nothing, unless volumes lie on it; then load its module before the daemon starts",
)


@dataclass(frozen=True, slots=True)
class CheckedPaths:
    """Directories that the checks use."""

    state_dir: str
    cgroup_root: str
    proc_root: str


def run(paths: CheckedPaths) -> list[Check]:
    """Every check that needs no daemon; reads a few small files, changes nothing."""
    checks: list[Callable[[CheckedPaths], Check]] = [
        kernel,
        privileges,
        freezer,
        inotify,
        space,
        state,
    ]
    return [check(paths) for check in checks]


def kernel(paths: CheckedPaths) -> Check:
    """The running kernel, for information."""
    machine = os.uname()
    return Check("kernel", "ok", f"{machine.sysname} {machine.release} {machine.machine}")


def privileges(paths: CheckedPaths) -> Check:
    """Whether this process may mount and freeze: CAP_SYS_ADMIN in its effective set."""
    status = _read(f"{paths.proc_root}/self/status")
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


def freezer(paths: CheckedPaths) -> Check:
    """Which cgroup freezer there is, and whether it can be written."""
    root = paths.cgroup_root
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


def inotify(paths: CheckedPaths) -> Check:
    """The kernel's limits on inotify: there are two each for watches and instances, and the lower
    one applies. One that the kernel does not have does not apply.
    """
    found = {name: kernel_limits.limit(name, paths.proc_root) for name in INOTIFY_WANTED}
    if all(value is None for value in found.values()):
        return Check(
            "inotify",
            "warn",
            "the kernel has no inotify",
            "every capture scans the whole volume",
            "use a kernel with CONFIG_INOTIFY_USER",
        )
    known = {name: value for name, value in found.items() if value is not None}
    low = [name for name, value in known.items() if value < INOTIFY_WANTED[name]]
    text = ", ".join(f"{name} {value}" for name, value in known.items())
    if not low:
        return Check("inotify", "ok", text)
    mend = " ".join(f"{name}={INOTIFY_WANTED[name]}" for name in low)
    return Check(
        "inotify",
        "warn",
        text,
        f"directories beyond a {limits.WATCHES_SHARE}th of the watches in all are scanned at each"
        " capture, and bursts of changes have all volumes compared",
        f"sysctl -w {mend}",
    )


def ebpf(features: Sequence[FeatureView]) -> list[Check]:
    """A check for each feature of eBPF captures, as far as each was tried."""
    return [_feature(feature) for feature in features]


def _feature(feature: FeatureView) -> Check:
    name = f"ebpf-{feature.name}"
    if feature.support == "supported":
        return Check(name, "ok", feature.reason)
    if feature.support == "unknown":
        return Check(name, "unknown", feature.reason)
    cost, mend = EBPF_MENDS.get(feature.name, EBPF_FILE_SYSTEM)
    return Check(name, "warn", feature.reason, cost, mend)


def sources(views: Sequence[VolumeView]) -> Check:
    """Which source each mounted volume has; first those that got less than they asked for."""
    found = [(view, view.status.capture) for view in views if view.status is not None]
    used = [(view, capture) for view, capture in found if capture.source != "none"]
    if not used:
        return Check("capture", "ok", "no volume is mounted")
    fallen = [each for each in used if less_than_asked(*each)]
    shown = [*fallen, *(each for each in used if each not in fallen)][:SOURCES_SHOWN_MAX]
    lines = [f"{view.name}: {c.source}, {c.reason}" for view, c in shown]
    more = [f"and {len(used) - len(shown)} more"] if len(used) > len(shown) else []
    text = "; ".join([*lines, *more])
    if not fallen:
        return Check("capture", "ok", text)
    return Check(
        "capture",
        "warn",
        text,
        "changed files of these are read whole, or all files compared, or those of a part",
        "mend what the reason names; a raised limit on watches holds at once, for all else stop the"
        " volume's containers and start them again",
    )


def sizes(views: Sequence[VolumeView]) -> Check:
    """Which volumes with the option `size` are not limited, or are nearly full."""
    lines = {
        view.name: _fullness(view.status.size, view.status.size_used, view.mounts)
        for view in views
        if view.status is not None and view.status.size is not None
    }
    if not lines:
        return Check("size", "ok", "no volume has a size")
    shown = [f"{name}: {text}" for name, text in lines.items() if text]
    if not shown:
        return Check("size", "ok", f"{len(lines)} volumes have a size, none is nearly full")
    more = [f"and {len(shown) - SOURCES_SHOWN_MAX} more"] if len(shown) > SOURCES_SHOWN_MAX else []
    return Check(
        "size",
        "warn",
        "; ".join([*shown[:SOURCES_SHOWN_MAX], *more]),
        "what is full takes no more writes, its snapshots go on; what is not enforced may fill the"
        " disk",
        "delete files, or `diffkeeper set VOLUME size=…`; mend what its trouble names",
    )


def _fullness(size: int, used: int | None, mounts: int) -> str:
    """The problem of a volume with a size; "" if there is none."""
    if used is None:
        return f"{format_size(size)} is not enforced" if mounts else ""
    near = used >= size * SIZE_NEAR_FRACTION
    return f"{format_size(used)} of {format_size(size)} used" if near else ""


def pressure(note: str) -> Check:
    """Whether histories are thinned early for want of room; `note`: that they are, and why."""
    if not note:
        return Check("history", "ok", "there is room for as much history as retention keeps")
    return Check(
        "history",
        "warn",
        note,
        "histories are shorter than their retention says; live data is safe",
        "raise --store-max, shorten retentions, or put --state-dir on a larger disk",
    )


def space(paths: CheckedPaths) -> Check:
    """Room on the file system of the state directory, or of its nearest existing parent."""
    path = paths.state_dir
    while not os.path.isdir(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    filesystem = os.statvfs(path)
    free = filesystem.f_bavail * filesystem.f_frsize
    text = f"{format_size(free)} free at {path}"
    reserve = Room.at(path, Share(), None).reserve_bytes
    if free >= max(FREE_BYTES_WANTED, 2 * reserve):
        return Check("space", "ok", text)
    full = free < reserve
    cost = "history may not grow" if full else "history is thinned early, and may soon not grow"
    mend = "free some space, or put --state-dir on a larger disk"
    return Check("space", "fail" if full else "warn", text, f"{cost}; live data is safe", mend)


def state(paths: CheckedPaths) -> Check:
    """Whether the state directory is on the host where its name says, or is covered by a disk."""
    found = hostpath.of(paths.state_dir, paths.proc_root)
    if found.covered:
        return Check(
            "state",
            "warn",
            f"the host has another disk on {found.covered}; {paths.state_dir} lies beneath it",
            "volumes and history are not on that disk",
            "stop the containers, copy the directory to that disk, set state.source to there",
        )
    if not found.path:
        return Check("state", "unknown", f"the host has no name for {paths.state_dir}")
    return Check("state", "ok", f"{paths.state_dir} is {found.path} on the host")


def clock(note: str) -> Check:
    """Whether retention and trash follow the wall clock; `note`: why not."""
    if not note:
        return Check("clock", "ok", "all of the time that the clock shows counts")
    return Check(
        "clock",
        "warn",
        note,
        "until then histories are longer, and removed volumes stay; nothing is lost",
        "if the clock is wrong, set it right; if it is right, wait, or use `diffkeeper prune`",
    )


def health(troubles: Sequence[str]) -> Check:
    """The daemon's troubles as one check."""
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
