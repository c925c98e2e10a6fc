"""Files that cannot be read, for reasons that occur."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from diffkeeper.fsio import linux

if TYPE_CHECKING:
    from collections.abc import Iterator

_LEASE = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def leased(path: Path) -> Iterator[None]:
    """Another process holds a write lease on the file, as Samba does."""
    command = [sys.executable, "-c", _LEASE, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            yield
        finally:
            holder.communicate()


@contextlib.contextmanager
def bad_disk(image: Path, mount: Path) -> Iterator[None]:
    """The second half of the disk that lies in `image` cannot be read."""
    fd = os.open(mount, os.O_RDONLY)
    linux.syncfs(fd)
    os.close(fd)
    kept = image.with_name("second-half")
    size = image.stat().st_size
    subprocess.run(["cp", "--sparse=always", str(image), str(kept)], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3")
    os.truncate(image, size // 2)
    try:
        yield
    finally:
        with open(kept, "rb") as source, open(image, "r+b") as target:
            target.truncate(size)
            _copy(source.fileno(), target.fileno(), size // 2, size)
        kept.unlink()


def _copy(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        try:
            start = os.lseek(source, start, os.SEEK_DATA)
        except OSError:
            return
        stop = os.lseek(source, start, os.SEEK_HOLE)
        while start < stop:
            start += os.pwrite(target, os.pread(source, min(1 << 20, stop - start), start), start)
