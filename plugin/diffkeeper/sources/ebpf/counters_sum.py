"""The programs' counters: an array in the kernel with a value for each processor, read at once."""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from typing import Any, Final

_KEY: Final = struct.Struct("=I")


class CounterSums:
    """Sums over all processors. Raises OSError."""

    def __init__(self, library: Any, table: Any) -> None:
        """`table`: bcc's, whose own reader makes an object for each processor."""
        self._library, self._fd = library, table.map_fd
        self._lock = threading.Lock()
        self._values = struct.Struct(f"={len(table[ctypes.c_int(0)])}Q")
        self._buffer = ctypes.create_string_buffer(self._values.size)

    def read(self, which: int) -> int:
        """One counter."""
        with self._lock:
            if self._library.bpf_lookup_elem(self._fd, _KEY.pack(which), self._buffer) < 0:
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error))
            return sum(self._values.unpack_from(self._buffer))
