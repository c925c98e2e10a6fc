"""The daemon's side of the guard process."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING

from diffkeeper.errors import FreezeError

if TYPE_CHECKING:
    from collections.abc import Sequence

GUARD_START_SECONDS_MAX = 10.0
GUARD_SEND_SECONDS_MAX = 0.1
GUARD_STOP_SECONDS_MAX = 2.0

_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "guard_main.py")


class Guard:
    """One guard process. Not thread-safe; a dead guard is replaced by `ensure`.

    An arm message needs no answer: once it is in the socket, it outlives us.
    """

    def __init__(self) -> None:
        self.pid = 0
        self.stays = False  # its memory is locked
        self._channel: socket.socket | None = None

    def ensure(self) -> None:
        """Start the guard unless it runs; raises FreezeError when it does not come up."""
        if self._channel is not None and self._alive():
            return
        self.stop()
        ours, theirs = socket.socketpair()
        self._channel = ours
        try:
            ours.settimeout(GUARD_START_SECONDS_MAX)
            with theirs:
                self.pid = _spawn(theirs.fileno())
            answer = ours.recv(1)
            if answer not in (b"r", b"s"):
                raise FreezeError("the freeze guard ended at its start")
            self.stays = answer == b"r"
            ours.settimeout(GUARD_SEND_SECONDS_MAX)
        except OSError as error:
            self.stop()
            raise FreezeError(f"the freeze guard did not start: {error}") from error
        except FreezeError:
            self.stop()
            raise

    def arm(self, deadline: float, journal: str, record: bytes, files: Sequence[str]) -> None:
        """Have `files` thawed at the monotonic `deadline`, or when we die; replaces an earlier
        call.

        `record` is the head of the journal record of this freeze. Raises FreezeError when the guard
        accepts no messages: then nothing may be frozen.
        """
        fields = ["arm", str(int(deadline * 1e6)), journal, record.hex(), *files]
        message = b"\0".join(map(os.fsencode, fields)) + b"\0\0"
        try:
            self._send(message)
        except OSError:
            self.stop()
            self.ensure()
            try:
                self._send(message)
            except OSError as error:
                self.stop()
                raise FreezeError(f"the freeze guard takes no messages: {error}") from error

    def disarm(self) -> None:
        """Cancel what is armed. A dead guard is reaped; `ensure` replaces it."""
        try:
            self._send(b"disarm\0\0")
        except OSError:
            self.stop()

    def stop(self) -> None:
        """End the guard and reap it; it thaws what is armed unless it is dead."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self.pid:
            pid, self.pid = self.pid, 0
            _reap(pid)

    def _send(self, message: bytes) -> None:
        if self._channel is None:
            raise BrokenPipeError("no guard")
        self._channel.sendall(message)

    def _alive(self) -> bool:
        ended = _wait(self.pid, os.WNOHANG)
        if ended:
            self.pid = 0
        return not ended


def _spawn(channel: int) -> int:
    """Start the program with `channel` as descriptor 0, ignoring signals to the process group."""
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", _PROGRAM],
        {"LC_ALL": "C"},
        file_actions=[(os.POSIX_SPAWN_DUP2, channel, 0)],
        setsid=True,
        setsigmask=[signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT],
    )


def _reap(pid: int) -> None:
    """Wait for its end after the channel was closed; a guard that hangs is killed."""
    if _wait(pid, os.WNOHANG):
        return
    descriptor = os.pidfd_open(pid)
    try:
        if not _ended(descriptor):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    finally:
        os.close(descriptor)
    _wait(pid, 0)


def _wait(pid: int, options: int) -> bool:
    """True when the guard has ended, also when another thread has reaped it."""
    try:
        return os.waitpid(pid, options)[0] != 0
    except ChildProcessError:
        return True


def _ended(descriptor: int) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(GUARD_STOP_SECONDS_MAX * 1000))
