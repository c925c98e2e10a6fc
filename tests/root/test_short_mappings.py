"""Mappings that could be stored to between two captures, and in neither of them.

The file stays open, or mapped for reading, so that nothing hints at the store but a timestamp.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import pytest

from diffkeeper import clock, limits
from diffkeeper.snapshot.policy import CapturePolicy
from tests.support.capture_rig import CaptureRig
from tests.support.containers import Container
from tests.support.storer import store

if TYPE_CHECKING:
    from pathlib import Path

BYTES = 64 * 1024
FREEZE_SECONDS = 2.0
# Stores a number each time that it is told to, and ends the mapping in one way or another before it
# answers. argv: file, signals, way.
STORER = """
import ctypes, mmap, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
file = os.open(sys.argv[1], os.O_RDWR)
size = os.fstat(file).st_size
for number in range(1, 1000):
    while not os.path.exists(f"{sys.argv[2]}/go{number}"):
        time.sleep(0.002)
    at = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, file, 0)
    ctypes.memmove(at + 4096, b"%08d" % number, 8)
    if sys.argv[3] == "protected":
        assert libc.mprotect(at, size, mmap.PROT_READ) == 0
    else:
        assert libc.munmap(at, size) == 0
    open(f"{sys.argv[2]}/done{number}", "w").close()
"""


@pytest.mark.parametrize("way", ["protected", "unmapped"])
@pytest.mark.parametrize("source", ["inotify", "ebpf"])
def test_a_store_through_a_short_mapping(source: str, way: str, tmp_path: Path) -> None:
    """eBPF sees it at once. Without, the next comparison finds it by its timestamp, also where the
    page was dirty already.
    """
    signals, program = tmp_path / "signals", tmp_path / "storer.py"
    signals.mkdir()
    program.write_text(STORER)
    policy = CapturePolicy(source=source, freeze_seconds_max=FREEZE_SECONDS)
    with CaptureRig(tmp_path, policy) as rig, Container() as container:
        watched = rig.watched
        if watched.source.name != source:
            pytest.skip(watched.watcher.reason)
        (rig.live / "file").write_bytes(bytes(BYTES))
        seen = tmp_path / "seen"
        run = f"exec {sys.executable} {program} {seen}/file {signals} {way}"
        for _ in range(2):  # nobody has it open, so that it is not looked at as a new file
            time.sleep(2 * limits.TIMESTAMP_GRANULE_NS / 1e9)  # until timestamps prove something
            rig.capture("interval")
        container.start({rig.live: seen}, run)
        for number in range(1, 5):
            store(signals, number)
            if source == "inotify":
                rig.capture("interval")
                watched.comparison.due = clock.monotonic()
            snapshot = rig.capture("interval")
            assert snapshot.consistency == "crash", snapshot.cause
            recorded = rig.replay(snapshot, f"replay{number}") / "file"
            assert recorded.read_bytes()[4096:4104] == b"%08d" % number
