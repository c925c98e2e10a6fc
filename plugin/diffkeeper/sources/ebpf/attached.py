"""Whether the loaded programs, their tracepoints and maps are still what was loaded.

The kernel is asked about each by its descriptor: whether the same object is behind it, and whether
the tracepoint runs the program. The kernel skips a program when its tracepoint is hit while another
eBPF program runs on that processor, as in an interrupt, and counts that.
"""

from __future__ import annotations

import ctypes
import fcntl
import struct
import threading
from dataclasses import dataclass
from typing import Any, Final

# Sources: struct bpf_prog_info and bpf_map_info of linux/bpf.h, which both have the id second;
# struct perf_event_query_bpf of linux/perf_event.h.
_INFO_BYTES: Final = 256
_ID_AND_MISSED: Final = struct.Struct("=4xI200xQ")
_QUERY: Final = struct.Struct("=III")
_QUERY_HEAD: Final = struct.Struct("=II")
_PROGRAMS_MAX: Final = 64  # BPF_TRACE_MAX_PROGS
_QUERY_BYTES: Final = _QUERY.size + 4 * _PROGRAMS_MAX
_QUERY_BPF: Final = 0xC008240A  # PERF_EVENT_IOC_QUERY_BPF


@dataclass(frozen=True, slots=True)
class _Event:
    """A tracepoint: its descriptor, and descriptor and id of its program."""

    name: bytes
    fd: int
    program_fd: int
    program_id: int


class Attached:
    """Everything that one loaded set of programs has in the kernel. Methods from any thread."""

    def __init__(self, library: Any, loaded: Any) -> None:
        self._library, self._loaded = library, loaded
        self._lock = threading.Lock()
        # Made once: making them takes longer than asking.
        self._information = ctypes.create_string_buffer(_INFO_BYTES)
        self._length = ctypes.c_uint32(_INFO_BYTES)
        self._length_at = ctypes.byref(self._length)
        module = ctypes.c_void_p(loaded.module)
        tables = range(library.bpf_num_tables(module))
        fds = [library.bpf_table_fd_id(module, ctypes.c_size_t(index)) for index in tables]
        self._maps = [(fd, self._ask(fd)[0]) for fd in fds]
        self._events = [self._event(name, fd) for name, fd in loaded.tracepoint_fds.items()]

    def _event(self, name: bytes, fd: int) -> _Event:
        program = self._loaded.funcs[b"tracepoint__" + name.replace(b":", b"__")].fd
        return _Event(name, fd, program, self._ask(program)[0])

    def inspect(self) -> tuple[str, dict[str, int]]:
        """What is not as it was loaded, or ""; and skipped runs since the load by tracepoint.

        Older kernels do not count skipped runs, which is 0.
        """
        broken, left_out = "", {}
        with self._lock:
            if any(self._ask(fd)[0] != number for fd, number in self._maps):
                broken = "one of their maps is gone"
            for event in self._events:
                name = event.name.decode()
                number, left_out[name] = self._ask(event.program_fd)
                if number != event.program_id:
                    broken = broken or f"the program of {name} is gone"
                elif number not in _programs(event.fd):
                    broken = broken or f"the program of {name} is detached"
        return broken, left_out

    def release(self) -> None:
        """Remove from bcc what is not ours any more, lest it closes another's descriptors."""
        with self._lock:
            for event in self._events:
                if not _programs(event.fd):
                    self._loaded.tracepoint_fds.pop(event.name, None)
                if self._ask(event.program_fd)[0] != event.program_id:
                    self._loaded.funcs.pop(b"tracepoint__" + event.name.replace(b":", b"__"), None)

    def _ask(self, fd: int) -> tuple[int, int]:
        """The kernel's id of a program or map, and how often it skipped a program.

        Zeros when the descriptor is of neither.
        """
        # Its content would make the kernel write more data elsewhere.
        ctypes.memset(self._information, 0, _INFO_BYTES)
        self._length.value = _INFO_BYTES
        if self._library.bpf_obj_get_info(fd, self._information, self._length_at) < 0:
            return 0, 0
        number, missed = _ID_AND_MISSED.unpack_from(self._information)
        return number, missed


def _programs(fd: int) -> tuple[int, ...]:
    """Ids of the programs that run at a tracepoint; none when the descriptor is not of one."""
    query = bytearray(_QUERY_BYTES)
    _QUERY_HEAD.pack_into(query, 0, _PROGRAMS_MAX, 0)
    try:
        fcntl.ioctl(fd, _QUERY_BPF, query)
    except OSError:
        return ()
    count = _QUERY_HEAD.unpack_from(query)[1]
    return struct.unpack_from(f"={count}I", query, _QUERY_HEAD.size)
