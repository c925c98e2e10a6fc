"""The guard: thaws what it is armed with when the deadline passes or the parent is gone.

Runs as a process of its own (`python -I -S guard_main.py`), so that nothing that stops, starves or
kills the daemon inside a freeze can leave a container frozen. It imports next to nothing, so that
it is small, and speaks on descriptor 0, a stream socket: messages end with two NUL bytes, their
fields with one.

    arm NUL deadline (microseconds, CLOCK_MONOTONIC) NUL journal NUL record NUL control file NUL ...
    disarm
"""

import ctypes
import os
import select
import sys
import time

CLEARED = bytes(16)
MCL_CURRENT = 1

RETRY_MICROSECONDS = 1_000_000


def thaw(files: list[bytes]) -> list[bytes]:
    """Thaw the cgroup of every file; a cgroup that is gone needs nothing. Returns those that
    failed.
    """
    failed = []
    for path in files:
        try:
            descriptor = os.open(path, os.O_WRONLY)
            try:
                os.write(descriptor, b"0" if path.endswith(b"/cgroup.freeze") else b"THAWED")
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            continue
        except OSError as error:
            sys.stderr.write(f"guard: cannot thaw {path!r}: {error.strerror}\n")
            failed.append(path)
    return failed


def clear(journal: bytes, record: bytes) -> None:
    """Clear the journal if it still holds the record of this freeze and not of a later one."""
    try:
        descriptor = os.open(journal, os.O_RDWR)
        try:
            if os.pread(descriptor, len(CLEARED), 0).hex().encode() == record:
                os.pwrite(descriptor, CLEARED, 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        sys.stderr.write(f"guard: cannot clear {journal!r}: {error.strerror}\n")


def release(armed: list[bytes]) -> list[bytes]:
    """Undo the freeze that `armed` (deadline, journal, record, files) describes.

    What could not be thawed stays in the journal, and armed: it is tried again a second later.
    """
    failed = thaw(armed[3:])
    if failed:
        again = int(time.monotonic() * 1e6) + RETRY_MICROSECONDS
        return [str(again).encode(), *armed[1:3], *failed]
    clear(armed[1], armed[2])
    return []


def receive() -> bytes:
    """Bytes from the parent; empty when it is gone."""
    try:
        return os.read(0, 65536)
    except ConnectionResetError:
        return b""


def hurry() -> None:
    """Get a higher priority than the daemon's in a freeze, if allowed; otherwise continue
    without.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(2))
    except PermissionError:
        return  # Without CAP_SYS_NICE; the daemon reports that as its own `urgent`.


def stay() -> bool:
    """Lock this program in memory, so that its thaw waits for no disk; returns whether that worked.

    Only what is mapped now (some 13 MB, which takes CAP_IPC_LOCK), not future memory: without the
    capability, exceeding RLIMIT_MEMLOCK would end the process.
    """
    return bool(ctypes.CDLL(None).mlockall(MCL_CURRENT) == 0)


def serve() -> None:
    """Follow messages until the daemon is gone, and thaw what is armed then."""
    os.chdir("/")
    hurry()
    poller = select.poll()
    poller.register(0, select.POLLIN)
    os.write(0, b"r" if stay() else b"s")
    pending = b""
    armed: list[bytes] = []
    while True:
        left = max(int(armed[0]) / 1000 - time.monotonic() * 1000, 0) if armed else None
        if poller.poll(left):
            data = receive()
            if not data:
                break
            *messages, pending = (pending + data).split(b"\0\0")
            if messages:
                command, *fields = messages[-1].split(b"\0")
                armed = fields if command == b"arm" else []
        if armed and time.monotonic() * 1e6 >= int(armed[0]):
            armed = release(armed)
    if armed:
        release(armed)


if __name__ == "__main__":
    serve()
