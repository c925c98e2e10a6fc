"""Whether the loaded programs, their tracepoints and their maps are still what was loaded.

It asks the kernel of each by its descriptor: the same object behind it, the program among those
that the tracepoint runs, and no run that was left out. The kernel leaves a program out when its
tracepoint is met while another eBPF program runs on that processor, and counts that.
"""

from __future__ import annotations

import ctypes
import fcntl
import struct
from dataclasses import dataclass
from typing import Any, Final

# Sources: struct bpf_prog_info and bpf_map_info of linux/bpf.h, which both have the id second;
# struct perf_event_query_bpf of linux/perf_event.h.
_INFO_BYTES: Final = 256
_ID: Final = struct.Struct("=4xI")
_MISSED: Final = struct.Struct("=208xQ")
_QUERY: Final = struct.Struct("=III")
_QUERY_HEAD: Final = struct.Struct("=II")
_PROGRAMS_MAX: Final = 64  # BPF_TRACE_MAX_PROGS
_QUERY_BPF: Final = 0xC008240A  # PERF_EVENT_IOC_QUERY_BPF


@dataclass(frozen=True, slots=True)
class _Event:
    """A tracepoint: its descriptor, and its program's descriptor and id."""

    name: bytes
    fd: int
    program_fd: int
    program_id: int


class Attached:
    """All that one loaded set of programs has in the kernel."""

    def __init__(self, library: Any, loaded: Any) -> None:
        self._library, self._loaded = library, loaded
        module = ctypes.c_void_p(loaded.module)
        tables = range(library.bpf_num_tables(module))
        fds = [library.bpf_table_fd_id(module, ctypes.c_size_t(index)) for index in tables]
        self._maps = [(fd, self._number(fd)) for fd in fds]
        self._events = [self._event(name, fd) for name, fd in loaded.tracepoint_fds.items()]
        self._missed = {event.program_fd: self.missed(event.program_fd) for event in self._events}

    def _event(self, name: bytes, fd: int) -> _Event:
        program = self._loaded.funcs[b"tracepoint__" + name.replace(b":", b"__")].fd
        return _Event(name, fd, program, self._number(program))

    def broken(self) -> str:
        """What is not as it was loaded; empty when all is. Three microseconds for each."""
        if any(self._number(fd) != number for fd, number in self._maps):
            return "one of their maps is gone"
        for event in self._events:
            name = event.name.decode()
            if self._number(event.program_fd) != event.program_id:
                return f"the program of {name} is gone"
            if event.program_id not in _programs(event.fd):
                return f"the program of {name} is detached"
            if self.missed(event.program_fd) != self._missed[event.program_fd]:
                return f"the kernel left runs of {name} out"
        return ""

    def release(self) -> None:
        """Take what is not ours any more from bcc, lest it closes another's descriptors."""
        for event in self._events:
            if not _programs(event.fd):
                self._loaded.tracepoint_fds.pop(event.name, None)
            if self._number(event.program_fd) != event.program_id:
                self._loaded.funcs.pop(b"tracepoint__" + event.name.replace(b":", b"__"), None)

    def _number(self, fd: int) -> int:
        """The kernel's number of a program or map; 0 when the descriptor is of none."""
        information = self._information(fd)
        return int(_ID.unpack_from(information)[0]) if information else 0

    def missed(self, fd: int) -> int:
        """How often the kernel left a program out; 0 on kernels that do not count it."""
        information = self._information(fd)
        return int(_MISSED.unpack_from(information)[0]) if information else 0

    def _information(self, fd: int) -> bytes:
        buffer = ctypes.create_string_buffer(_INFO_BYTES)
        length = ctypes.c_uint32(_INFO_BYTES)
        failed = self._library.bpf_obj_get_info(fd, buffer, ctypes.byref(length)) < 0
        return b"" if failed else buffer.raw


def _programs(fd: int) -> tuple[int, ...]:
    """Numbers of the programs that run at a tracepoint; none when the descriptor is of none."""
    query = bytearray(_QUERY.size + 4 * _PROGRAMS_MAX)
    _QUERY_HEAD.pack_into(query, 0, _PROGRAMS_MAX, 0)
    try:
        fcntl.ioctl(fd, _QUERY_BPF, query)
    except OSError:
        return ()
    count = _QUERY_HEAD.unpack_from(query)[1]
    return struct.unpack_from(f"={count}I", query, _QUERY_HEAD.size)
