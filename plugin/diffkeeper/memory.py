"""The process's memory: a compiler takes much of it, and leaves much behind."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

_PAGE_BYTES: Final = os.sysconf("SC_PAGESIZE")
_COMPILER: Final = ("/libLLVM", "/libclang")
_MADV_DONTNEED: Final = 4


def resident_bytes() -> int:
    """Resident size of this process, as proc(5) tells it in `statm`."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


def trim_heap() -> None:
    """Give free heap back to the kernel, including free pages between blocks in use."""
    ctypes.CDLL(None).malloc_trim(0)


def give_back() -> None:
    """Give back free heap, and the pages of the compiler's code, which are read again if needed."""
    libc = ctypes.CDLL(None)
    trim_heap()
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for start, end in _compiler_code():
        libc.madvise(start, end - start, _MADV_DONTNEED)


def _compiler_code() -> list[tuple[int, int]]:
    """Where the compiler's code is mapped. Only code: data may have been changed in memory."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, access, _, _, _, *path = line.split(maxsplit=5)
        if access == "r-xp" and path and any(name in path[0] for name in _COMPILER):
            start, end = (int(address, 16) for address in place.split("-"))
            found.append((start, end))
    return found
