"""Direct I/O under way on a slow disk: no freeze is long enough for it, and it is left alone."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper import limits
from diffkeeper.freeze.cgroups import Hierarchy
from diffkeeper.snapshot.policy import CapturePolicy
from tests.support import disks
from tests.support.capture_rig import CGROUP_ROOT, CaptureRig
from tests.support.cgroups import remove
from tests.support.churn.aio import UNDER_WAY_MAX
from tests.support.namespaces import in_namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

WRITES_PER_SECOND = 20
FREEZE_SECONDS = 0.05  # less than what is under way takes
# Keeps as many direct writes under way as there is room for, with Linux AIO, until a line comes.
# argv: file.
PROGRAM = """
import contextlib, mmap, os, select, sys
from tests.support.churn.aio import UNDER_WAY_MAX, Aio
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_DIRECT)
aio, memory, at = Aio(), mmap.mmap(-1, 4096), 0
while not select.select([0], [], [], 0)[0]:
    while not aio.full:
        aio.submit(file, memory, at := (at + 4096) % (1 << 20))
        print(flush=True)
    with contextlib.suppress(InterruptedError):
        aio.reap(1)
aio.reap(UNDER_WAY_MAX)
print("done", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with disks.file_system("ext4", tmp_path) as mounted:
        yield mounted


@pytest.fixture
def cgroups() -> Iterator[list[str]]:
    """A freezer's and one that throttles, of version 1."""
    found = [
        f"{CGROUP_ROOT}/{name}/diffkeeper-direct-{os.getpid()}" for name in ("freezer", "blkio")
    ]
    if (
        os.geteuid() != 0
        or not Hierarchy(CGROUP_ROOT).v1
        or not os.path.isdir("/sys/fs/cgroup/blkio")
    ):
        pytest.skip("needs root, and version 1 of the freezer and the blkio controller")
    for directory in found:
        os.mkdir(directory)
    yield found
    for directory in found:
        remove(directory)


@contextlib.contextmanager
def writing(live: Path, seen: Path, cgroups: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The program in these cgroups, with a mount namespace of its own."""
    script = f'mount --bind {live} {seen} && exec {sys.executable} -c "$1" {seen}/file'
    with subprocess.Popen(
        in_namespace(script, PROGRAM, cgroups=cgroups),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_direct_io_that_outlasts_freezes(disk: Path, cgroups: list[str], tmp_path: Path) -> None:
    live, seen = disk / "live", tmp_path / "seen"
    live.mkdir()
    seen.mkdir()
    (live / "file").write_bytes(bytes(1 << 20))
    os.sync()
    device = os.stat(live).st_dev
    throttle = f"{os.major(device)}:{os.minor(device)} {WRITES_PER_SECOND}"
    Path(cgroups[1], "blkio.throttle.write_iops_device").write_text(throttle)
    policy = CapturePolicy("ebpf", freeze_seconds_max=FREEZE_SECONDS)
    with CaptureRig(tmp_path, policy, live=live) as rig:
        if rig.watched.watcher.source.name != "ebpf":
            pytest.skip(rig.watched.watcher.reason)
        rig.capture()
        with writing(live, seen, cgroups) as writer:
            assert writer.stdin is not None
            assert writer.stdout is not None
            for _ in range(UNDER_WAY_MAX):
                assert writer.stdout.readline() == b"\n"
            held: list[float] = []
            for number in range(4):
                snapshot = rig.capture_of("interval", rig.writers())
                if number == 0:
                    assert snapshot is not None
                    assert snapshot.consistency == "fuzzy"
                    assert "direct I/O that was under way before the freeze" in snapshot.cause
                elif snapshot is not None:
                    assert "direct I/O outlasted the freeze 3 times in a row" in snapshot.cause
                held.append(rig.watched.frozen_seconds)
            assert held[0] >= limits.FREEZE_ATTEMPTS_MAX * FREEZE_SECONDS
            assert held == held[:1] * 4, "it is let alone"
            writer.stdin.write(b"\n")
            writer.stdin.flush()
            while writer.stdout.readline() != b"done\n":
                assert writer.poll() is None
            deadline = time.monotonic() + held[0] / limits.FREEZE_FRACTION_MAX + 10
            while rig.capture().consistency != "crash":
                assert time.monotonic() < deadline, "it freezes as soon as it may"
                time.sleep(0.05)
