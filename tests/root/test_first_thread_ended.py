"""A process whose first thread has ended goes on, and writes: /proc tells of it by its threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper.freeze.mappings import MappingScanner
from diffkeeper.freeze.outside import Outside
from diffkeeper.freeze.writers import Survey, Target
from diffkeeper.fsio import mountinfo
from tests.support.namespaces import in_namespace
from tests.support.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

WRITER = """
import ctypes, mmap, os, sys, threading, time
def work():
    mapped = os.open(f"{sys.argv[1]}/mapped", os.O_RDWR)
    memory = mmap.mmap(mapped, 4096)
    os.close(mapped)
    with open(f"{sys.argv[1]}/written", "r+b") as file:
        print("ready", flush=True)
        time.sleep(600)
threading.Thread(target=work).start()
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.fixture
def live(tmp_path: Path) -> Path:
    directory = tmp_path / "live"
    directory.mkdir()
    for name in ("mapped", "written"):
        (directory / name).write_bytes(bytes(4096))
    return directory


@pytest.fixture
def writer(live: Path) -> Iterator[int]:
    script = f'mount --bind {live} /mnt && exec {sys.executable} -c "$1" /mnt'
    process = subprocess.Popen(in_namespace(script, WRITER), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        state = Path(f"/proc/{process.pid}/stat")
        wait_for(lambda: ") Z " in state.read_text(), "its first thread has ended")
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def target_of(directory: Path) -> Target:
    return Target(*mountinfo.locate(str(directory))[:2])


def test_it_is_a_writer(live: Path, writer: int) -> None:
    target = target_of(live)
    found = Survey().find([target])[target]
    assert writer in found.pids
    assert found.containers == 1


@pytest.mark.parametrize("by_query", [True, False])
def test_what_it_has_mapped(live: Path, writer: int, by_query: bool) -> None:
    scanner, dev = MappingScanner("/proc"), target_of(live).dev
    scanner.by_query = by_query
    inode = (live / "mapped").stat().st_ino
    assert inode in scanner.scan([writer], dev).inodes
    assert (dev, inode) in scanner.everything(writer)
    assert Outside().mapped(dev)[inode] == writer
    if by_query and not scanner.by_query:
        pytest.skip("this kernel has no PROCMAP_QUERY: maps are read as text")


def test_what_it_has_open(live: Path, writer: int) -> None:
    found = Survey().open_for_write([writer], target_of(live).dev)
    assert (live / "written").stat().st_ino in found
