"""A container's file system that never answers holds up nobody else's freeze."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper.freeze.cgroups import Cgroup
from diffkeeper.freeze.writers import Survey
from tests.support import cgroups

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffkeeper.freeze.freezer import Freezer

ANSWER_SECONDS = 10.0
BEGIN = """
import ctypes, mmap, os, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result:
        sys.exit(os.strerror(ctypes.get_errno()))
def mount(kind, point, options, flags=0):
    check(libc.mount(kind, os.fsencode(point), kind, flags, options.encode()))
def never_answers(point):
    device = os.open("/dev/fuse", os.O_RDWR)
    mount(b"fuse", point, f"fd={device},rootmode=40000,user_id=0,group_id=0")
check(libc.unshare(0x20000))
check(libc.mount(None, b"/", None, 0x44000, None))
"""
# In the cgroup "$2" is only a process that was forked, and has executed nothing.
FORKED = """
never_answers(sys.argv[1])
if os.fork():
    os.wait()
    os._exit(0)
open(f"{sys.argv[2]}/cgroup.procs", "w").write(str(os.getpid()))
"""
# What is mapped is in an overlay with its upper directory in "$1".
OVERLAID = """
volume, base = sys.argv[1:]
for name in ("upper", "work"):
    os.mkdir(f"{volume}/{name}")
for name in ("seen", "lower", "merged"):
    os.mkdir(f"{base}/{name}")
check(libc.mount(os.fsencode(volume), os.fsencode(f"{base}/seen"), None, 0x1000, None))
options = f"lowerdir={base}/lower,upperdir={base}/seen/upper,workdir={base}/seen/work"
mount(b"overlay", f"{base}/merged", options)
file = os.open(f"{base}/merged/file", os.O_RDWR | os.O_CREAT)
os.ftruncate(file, 4096)
mapped = mmap.mmap(file, 4096)
mapped[0] = 1
"""
COVERED = """
never_answers(f"{base}/seen")
"""
STAY = """
os.write(1, b"%d\\n" % os.getpid())
time.sleep(1000)
"""


@contextlib.contextmanager
def running(script: str, *arguments: str | Path) -> Iterator[int]:
    """A process with a mount namespace of its own; its pid."""
    command = [sys.executable, "-S", "-c", BEGIN + script + STAY, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        pid = process.stdout.readline()
        if not pid:
            pytest.skip(f"mounting: {process.stderr.read().decode()}")
        try:
            yield int(pid)
        finally:
            os.kill(int(pid), 9)


@pytest.fixture
def cgroup() -> Iterator[str]:
    made = cgroups.fresh("v1", "hanging")
    yield made
    cgroups.remove(made)


def test_nobody_waits_for_a_root_that_hangs(cgroup: str, freezer: Freezer) -> None:
    """Whether a container has begun is not asked of a file system that may not answer."""
    program = Path(os.path.realpath(sys.executable)).parent
    with running(FORKED, program, cgroup) as pid:
        frozen = freezing(freezer, [cgroup])
        other = freezing(freezer, [])
        other.join(ANSWER_SECONDS)
        frozen.join(ANSWER_SECONDS)
        stood = not other.is_alive(), not frozen.is_alive()
        os.kill(pid, 9)
    assert stood == (True, True)


def freezing(freezer: Freezer, directories: list[str]) -> threading.Thread:
    """A thread that freezes these, and finds all of them frozen."""

    def freeze() -> None:
        with freezer.frozen(directories, 5):
            for directory in directories:
                cgroup = Cgroup.open(directory)
                assert cgroup is not None
                assert cgroup.requested()
                cgroup.close()

    thread = threading.Thread(target=freeze, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("covered", [False, True], ids=["answers", "never answers"])
def test_nobody_waits_for_an_upper_directory_that_hangs(tmp_path: Path, covered: bool) -> None:
    """A freeze looks for what is mapped through overlays."""
    volume, base, found = tmp_path / "volume", tmp_path / "base", list[set[int]]()
    volume.mkdir()
    base.mkdir()
    status, survey = volume.stat(), Survey()
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"

    def look(pid: int) -> None:
        mapped = survey.unseen_writes([pid], device)
        assert mapped.foreign
        found.append(survey.overlaid(mapped, [pid], status.st_dev))

    with running(OVERLAID + (COVERED if covered else ""), volume, base) as pid:
        looking = threading.Thread(target=look, args=(pid,), daemon=True)
        looking.start()
        looking.join(ANSWER_SECONDS)
        hangs = looking.is_alive()
        file = (volume / "upper" / "file").stat().st_ino
    assert not hangs
    assert found == [set() if covered else {file}]
