"""Which eBPF programs this kernel gets: sources by concern, by the tracepoints that it has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from diffkeeper import limits
from diffkeeper.errors import UnsupportedError
from diffkeeper.sources.ebpf import maps, tracing
from diffkeeper.sources.ebpf.features import DIRECT_ENDS, FAULTS, MAPPED, Attempt

if TYPE_CHECKING:
    from collections.abc import Mapping

EBPF_FILES_SHARE = 2  # one volume has at most one part of so many
EBPF_VOLUME_SLOTS = 4_096
EBPF_RANGE_CHUNKS_MAX = 64
EBPF_DISK_PLACES_MAX = 8
_PAGE_BITS: Final = os.sysconf("SC_PAGESIZE").bit_length() - 1

# Sources by concern, with the tracepoints that each needs.
_COMMON: Final = {
    "mapped.c": ("writeback/writeback_dirty_folio",),
}
_FILE_SYSTEMS: Final = {
    "ext4": {
        "ext4_write.c": (
            "ext4/ext4_da_write_end",
            "ext4/ext4_write_end",
            "ext4/ext4_journalled_write_end",
        ),
        "ext4_space.c": (
            "ext4/ext4_truncate_enter",
            "ext4/ext4_punch_hole",
            "ext4/ext4_zero_range",
            "ext4/ext4_collapse_range",
            "ext4/ext4_insert_range",
        ),
        "ext4_inode.c": ("ext4/ext4_free_inode", "ext4/ext4_mark_inode_dirty"),
    },
    "xfs": {
        "xfs_write.c": ("xfs/xfs_file_buffered_write",),
        "xfs_space.c": (
            "xfs/xfs_itruncate_extents_start",
            "xfs/xfs_free_file_space",
            "xfs/xfs_zero_file_space",
            "xfs/xfs_collapse_file_space",
            "xfs/xfs_insert_file_space",
            "xfs/xfs_reflink_remap_range",
        ),
        "xfs_inode.c": (
            "xfs/xfs_inode_inactivating",
            "xfs/xfs_setattr",
            "xfs/xfs_update_time",
        ),
    },
}
# Only on some kernels: an ioctl that moves content between two files of an XFS.
_EXCHANGES: Final = {
    "xfs_swap.c": ("xfs/xfs_swap_extent_before",),
    "xfs_exchange.c": ("xfs/xfs_exchrange_mappings",),
}
_LOOP: Final = {"iomap.c": ("iomap/iomap_iter",)}
# Told by some kernels only; without it direct I/O is marked when it starts. Comes before the loop.
_DIRECT: Final = {"direct.c": ("iomap/iomap_dio_rw_begin", "iomap/iomap_dio_complete")}
# Only on some kernels; without them a mapping that comes and goes is only seen by its traces. With
# large pages, as on XFS, that is not enough: a store into one that a write dirtied leaves none.
_FAULTS: Final = {"faults.c": ("filemap/mm_filemap_fault", "filemap/mm_filemap_map_pages")}


def plan(attempt: Attempt) -> tuple[list[str], dict[str, str], dict[str, int]]:
    """Sources to compile, support of each file system, and macros.

    Loads nothing, but mounts tracefs if nobody has; `attempt` records what was found.
    UnsupportedError names what the kernel lacks.
    """
    with attempt.trying("tracefs", "the kernel's tracepoints can be read"):
        tracing.events()
    with attempt.trying("tracepoints", "the kernel has those that are needed"):
        sources, file_systems, flags = _plan()
    some = {
        DIRECT_ENDS: _lack("direct.c", sources, "direct I/O is marked when it starts"),
        FAULTS: _lack("faults.c", sources, "mappings show by their traces alone"),
        MAPPED: "",
    }
    attempt.planned({**file_systems, **some})
    return sources, file_systems, flags


def _lack(source: str, sources: list[str], instead: str) -> str:
    return "" if source in sources else f"the kernel lacks the tracepoints; {instead}"


def _plan() -> tuple[list[str], dict[str, str], dict[str, int]]:
    """As `plan`, from tracefs."""
    missing = _missing(_COMMON | _LOOP)
    if missing:
        raise UnsupportedError(f"the kernel has no tracepoint {missing[0]}")
    sources = ["marks.h", "xfs_types.h"]
    file_systems: dict[str, str] = {}
    for name, parts in _FILE_SYSTEMS.items():
        missing = _missing({**parts, **_FAULTS} if name == "xfs" else parts)
        file_systems[name] = f"the kernel has no tracepoint {missing[0]}" if missing else ""
        if not missing:
            sources += parts
    if all(file_systems.values()):
        raise UnsupportedError("; ".join(file_systems.values()))
    sources += _COMMON
    if not file_systems["xfs"]:
        sources += [source for source, events in _EXCHANGES.items() if not _missing({"": events})]
    if not _missing(_FAULTS):
        sources += _FAULTS
    loop = tracing.read("iomap/iomap_iter")
    if loop is None or not {"WRITE", "DIRECT"} <= loop.flags.keys():
        raise UnsupportedError("the kernel does not tell reads of iomap from writes")
    ended = tracing.read("iomap/iomap_dio_complete")
    direct_end = ended is not None and "WRITE" in ended.flags and not _missing(_DIRECT)
    if direct_end:
        sources += _DIRECT
    sources += _LOOP
    macros = {
        "IOMAP_WRITE": loop.flags["WRITE"],
        "IOMAP_DIRECT": loop.flags["DIRECT"],
        "KI_WRITE": ended.flags["WRITE"] if ended is not None and direct_end else 0,
        "PAGE_BITS": _PAGE_BITS,
        "MAPPED_BITS": mapped_bits(),
        "CHUNKS_MAX": maps.EBPF_CHUNKS_MAX,
        "FILES_MAX": maps.EBPF_FILES_MAX,
        "FILES_SHARE_MAX": max(1, maps.EBPF_FILES_MAX // EBPF_FILES_SHARE),
        "WATCHED_MAX": maps.EBPF_WATCHED_MAX,
        "PLACES_MAX": EBPF_VOLUME_SLOTS,
        "DISK_PLACES_MAX": EBPF_DISK_PLACES_MAX,
        "VOLUMES_MAX": EBPF_VOLUME_SLOTS,
        "WRITES_MAX": maps.EBPF_WRITES_MAX,
        "RANGE_CHUNKS_MAX": EBPF_RANGE_CHUNKS_MAX,
        "DIRECT_END": int(direct_end),
        "FAULTS": int("faults.c" in sources),
    }
    return sources, file_systems, macros


def wider(direct_end: bool, faults: bool) -> str:
    """What is read more widely for want of tracepoints, for a person."""
    found = []
    if not direct_end:
        found.append(
            "direct I/O is read in each freeze until it has surely ended, after"
            f" {limits.STARTED_SECONDS:.0f} s: the kernel has no tracepoint {_missing(_DIRECT)[0]}"
        )
    if not faults:
        found.append(
            "more is read of files that may have been mapped: the kernel has no tracepoint"
            f" {_missing(_FAULTS)[0]}"
        )
    return "; ".join(found)


def mapped_bits() -> int:
    """log2 of the bytes of a window: at least the page cache's largest unit, and any chunk."""
    try:
        with open("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", encoding="ascii") as file:
            largest = int(file.read())
    except FileNotFoundError:
        largest = 1 << _PAGE_BITS
    return max(largest, limits.CHUNK_BYTES_MAX).bit_length() - 1


def _missing(parts: Mapping[str, tuple[str, ...]]) -> list[str]:
    wanted = [event for events in parts.values() for event in events]
    return [event for event in wanted if not tracing.usable(event)]
