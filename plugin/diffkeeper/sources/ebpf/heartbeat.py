"""Proves regularly that writes are still marked, by writing.

On each device with volumes that use eBPF, a nameless file is written to, by a thread that may wait
for a disk; its mark must be in the next drain. If it is not, the programs count as lost, for all
volumes; if nothing was proved for long, a device's volumes stop using them.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from typing import TYPE_CHECKING

from diffkeeper import clock, limits
from diffkeeper.errors import UnsupportedError

if TYPE_CHECKING:
    from diffkeeper.sources.ebpf.program import Program

log = logging.getLogger(__name__)

HEARTBEAT_SILENT_SECONDS_MAX = 60.0
HEARTBEAT_STOP_SECONDS_MAX = 2.0
_CHUNK_BITS = 12


class Heartbeat:
    """Heartbeat of one set of loaded programs. Methods may be called from any thread."""

    def __init__(self, program: Program, seconds: float = limits.HEARTBEAT_SECONDS) -> None:
        """`seconds`: between two beats."""
        self._program = program
        self._seconds = seconds
        self._lock = threading.Lock()
        self._pulses: dict[int, _Pulse] = {}
        self._users: dict[int, int] = {}
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def join(self, device: int, directory: str) -> None:
        """Add a volume on `device`; a file is created below `directory`.

        Raises UnsupportedError when a write to it leaves no mark, or it can't be written to.
        """
        with self._lock:
            if device not in self._pulses:
                self._pulses[device] = _first(self._program, device, directory)
            self._users[device] = self._users.get(device, 0) + 1
            if self._thread is None:
                self._stopping.clear()
                self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
                self._thread.start()

    def leave(self, device: int) -> None:
        """Remove a volume on `device`; the thread ends with the last one of all."""
        ended: threading.Thread | None = None
        with self._lock:
            self._users[device] -= 1
            if self._users[device]:
                return
            del self._users[device]
            pulse = self._pulses.pop(device)
            if not self._pulses:
                ended, self._thread = self._thread, None
                self._stopping.set()
                self._stopping = threading.Event()
        if ended is not None:
            ended.join(HEARTBEAT_STOP_SECONDS_MAX)
        pulse.close()

    def silent(self, device: int) -> str:
        """Why nothing was proved for too long on a device, or ""."""
        pulse = self._pulses.get(device)
        if pulse is None or clock.monotonic() - pulse.proven < HEARTBEAT_SILENT_SECONDS_MAX:
            return ""
        seconds = HEARTBEAT_SILENT_SECONDS_MAX
        trouble = f": {pulse.trouble}" if pulse.trouble else ""
        return f"no proof for {seconds:.0f} s that writes are seen{trouble}"

    def _run(self) -> None:
        stopping = self._stopping
        while not stopping.wait(self._seconds):
            with self._lock:
                pulses = list(self._pulses.values())
            if self._program.check():
                return
            for pulse in pulses:
                missing = pulse.beat()
                if missing:
                    self._program.lose(missing)


class _Pulse:
    """The file on one device."""

    def __init__(self, program: Program, device: int, directory: str) -> None:
        self._program = program
        self._lock = threading.Lock()
        self._fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._inode = os.fstat(self._fd).st_ino
        self._number = program.open_volume(device)
        self.proven = clock.monotonic()
        self.trouble = ""
        program.watch(self._number, _CHUNK_BITS, [self._inode], held=False)

    def beat(self) -> str:
        """Write, and look for the mark; returns what is wrong with the programs if it is
        missing.
        """
        with self._lock:
            if self._fd < 0:
                return ""
            try:
                os.pwrite(self._fd, b"\0", 0)
            except OSError as error:
                # Nothing was written, which proves nothing; `silent` reports it if it continues.
                self.trouble = str(error.strerror)
                return ""
            return self._poll()

    def _poll(self) -> str:
        try:
            marks = self._program.drain(self._number)
        except OSError as error:
            return f"their maps cannot be read: {error.strerror}"
        changed = marks.done.get(self._inode)
        if changed is not None and (changed.whole or changed.chunks):
            self.proven, self.trouble = clock.monotonic(), ""
            return ""
        # Lost marks prove nothing, and cause a comparison anyway.
        return "" if marks.lost else "a write left no mark"

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            os.close(self._fd)
            self._fd = -1
            if not self._program.lost:
                self._program.unwatch(self._number, [self._inode])
            self._program.close_volume(self._number, forget=False)


def _first(program: Program, device: int, directory: str) -> _Pulse:
    """A pulse after its first successful beat."""
    try:
        pulse = _Pulse(program, device, directory)
    except OSError as error:
        where = errno.errorcode.get(error.errno or 0, "")
        raise UnsupportedError(f"no file to prove eBPF with in {directory}: {where}") from error
    missing = pulse.beat() or pulse.trouble
    if program.lost or missing:
        pulse.close()
        raise UnsupportedError(program.lost or f"writes are not seen on this device: {missing}")
    return pulse
