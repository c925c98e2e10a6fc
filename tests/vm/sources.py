"""usage: sources.py DIRECTORY...

Prints which source a volume in each directory gets, and why. Fails where eBPF was to be had.
"""

from __future__ import annotations

import os
import sys

from diffkeeper.capture.probe import Place, Sources
from diffkeeper.fsio import mounts

BY_RANGE = ("ext4",)  # XFS takes tracepoints that this kernel lacks
CHUNK_BITS = 16


def main(directories: list[str]) -> int:
    """The exit status."""
    sources, missing = Sources(), 0
    for directory in directories:
        fs_type = mounts.locate(directory)[2]
        place = Place(os.stat(directory).st_dev, fs_type, CHUNK_BITS)
        for wanted in ("auto", "ebpf", "scan"):
            choice = sources.choose(wanted, place)
            choice.source.stop()
            print(f"{fs_type}, capture={wanted}: {choice.source.name} ({choice.reason})")
            missing += wanted == "ebpf" and fs_type in BY_RANGE and choice.source.name != "ebpf"
    sources.close()
    return min(missing, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
