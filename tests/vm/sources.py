"""usage: sources.py DIRECTORY...

Prints which source a volume in each directory gets, and why. Fails where eBPF was to be had.
"""

from __future__ import annotations

import os
import sys

from diffkeeper.fsio import mountinfo
from diffkeeper.sources.ebpf.probe import Sources
from diffkeeper.sources.ladder import VolumePlace

# XFS takes these tracepoints, which older kernels lack.
FAULTS = "/sys/kernel/tracing/events/filemap/mm_filemap_fault"
BY_RANGE = ("ext4", "xfs") if os.path.isdir(FAULTS) else ("ext4",)
CHUNK_BITS = 16


def main(directories: list[str]) -> int:
    """The exit status."""
    sources, missing = Sources(), 0
    for directory in directories:
        fs_type = mountinfo.locate(directory)[2]
        place = VolumePlace(os.stat(directory).st_dev, fs_type, CHUNK_BITS)
        for wanted in ("auto", "ebpf", "scan"):
            choice = sources.choose(wanted, place)
            choice.source.stop()
            print(f"{fs_type}, capture={wanted}: {choice.source.name} ({choice.reason})")
            missing += wanted == "ebpf" and fs_type in BY_RANGE and choice.source.name != "ebpf"
    sources.close()
    return min(missing, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
