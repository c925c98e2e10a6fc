"""A process that no freezer stops."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS_MAX = 20.0


@dataclass
class StuckProcess:
    """`pid` sleeps until `release`, which ends it."""

    pid: int
    release: Callable[[], None]


@contextlib.contextmanager
def sleeping_deeply(mountpoint: Path) -> Iterator[StuckProcess]:
    """It sleeps without interruption for a directory's lock.

    The lock is held by another one, which waits for a FUSE file system that never answers.
    """
    mountpoint.mkdir()
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"/dev/fuse: {error.strerror}")
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"none", bytes(mountpoint), b"fuse", 0, options) != 0:
        os.close(device)
        pytest.skip(f"mounting FUSE: {os.strerror(ctypes.get_errno())}")
    processes: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> int:
        process = subprocess.Popen([*command], stderr=subprocess.DEVNULL)
        processes.append(process)
        _wait_for(lambda: sleeps_deeply(process.pid))
        return process.pid

    with contextlib.ExitStack() as stack:
        stack.callback(libc.umount2, bytes(mountpoint), 2)

        @stack.callback
        def release() -> None:
            if processes:
                os.close(device)
            while processes:
                process = processes.pop()
                process.kill()
                process.wait()

        start("stat", str(mountpoint / "x"))
        yield StuckProcess(start("mkdir", str(mountpoint / "y")), release)


def sleeps_deeply(pid: int) -> bool:
    """In an uninterruptible sleep, and for longer than a read from the disk takes."""
    for _ in range(20):
        if Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "D":
            return False
        time.sleep(0.01)
    return True


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
