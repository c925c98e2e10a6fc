"""Changes a directory in every way a program can, at random but by a seed, until it is killed.

Run as `python churn.py DIRECTORY SEED [PROCESSES]`: each process works on names of its own and on
names that all share.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PUNCH_HOLE, KEEP_SIZE, ZERO_RANGE = 2, 1, 16
SAFE = os.O_NOFOLLOW | os.O_NONBLOCK  # neither through a link nor stuck at a FIFO
# Followed by the calls that follow links: none may lead to anything outside the directory.
TARGETS = ("f1", "d1", "nowhere", "x" * 300, "/nonexistent/file")
SIZE_MAX = 400_000
_libc = ctypes.CDLL(None, use_errno=True)


class Churn:
    """One process's random changes below `base`."""

    def __init__(self, base: str, seed: int) -> None:
        self.base = base
        self.random = random.Random(seed)
        self.open: list[int] = []
        self.maps: list[mmap.mmap] = []

    def name(self) -> str:
        depth = self.random.choice((0, 0, 0, 1, 1, 2))
        parts = [f"d{self.random.randrange(4)}" for _ in range(depth)]
        return os.path.join(self.base, *parts, f"f{self.random.randrange(12)}")

    def directory(self) -> str:
        parts = [f"d{self.random.randrange(4)}" for _ in range(self.random.choice((1, 1, 2)))]
        return os.path.join(self.base, *parts)

    def data(self) -> bytes:
        size = self.random.choice((1, 100, 4096, 8192, 65536, 200_000))
        if self.random.random() < 0.1:
            return bytes(size)
        return self.random.randbytes(size)

    def write(self) -> None:
        fd = os.open(self.name(), os.O_RDWR | os.O_CREAT | SAFE, 0o644)
        os.pwrite(fd, self.data(), self.random.randrange(SIZE_MAX))
        os.close(fd)

    def append(self) -> None:
        fd = os.open(
            self.name(),
            os.O_WRONLY | os.O_CREAT | os.O_APPEND | SAFE,
            0o600,
        )
        if os.fstat(fd).st_size < SIZE_MAX:
            os.write(fd, self.data())
        os.close(fd)

    def keep_open(self) -> None:
        fd = os.open(self.name(), os.O_RDWR | os.O_CREAT | SAFE, 0o644)
        self.open.append(fd)
        if len(self.open) > 6:
            os.close(self.open.pop(0))

    def write_open(self) -> None:
        if self.open:
            fd = self.random.choice(self.open)
            os.pwrite(fd, self.data(), self.random.randrange(SIZE_MAX))
            if self.random.random() < 0.2:
                os.fsync(fd)

    def direct(self) -> None:
        try:
            fd = os.open(
                self.name(),
                os.O_RDWR | os.O_CREAT | os.O_DIRECT | SAFE,
                0o644,
            )
        except OSError:
            return
        block = mmap.mmap(-1, 4096)
        block.write(self.random.randbytes(4096))
        os.pwritev(fd, [block], 4096 * self.random.randrange(100))
        os.close(fd)

    def map_file(self) -> None:
        fd = os.open(self.name(), os.O_RDWR | os.O_CREAT | SAFE, 0o644)
        if os.fstat(fd).st_size == 0:
            os.ftruncate(fd, 300_000)
        self.maps.append(mmap.mmap(fd, 4096))
        os.close(fd)
        if len(self.maps) > 4:
            self.maps.pop(0).close()

    def store_mapped(self) -> None:
        if self.maps:
            at = self.random.randrange(4000)
            self.random.choice(self.maps)[at : at + 8] = self.random.randbytes(8)

    def truncate(self) -> None:
        # Mapped files are never cut below their mapping: that would end this process by SIGBUS.
        os.truncate(self.name(), self.random.randrange(4096, SIZE_MAX))

    def allocate(self) -> None:
        fd = os.open(self.name(), os.O_RDWR | SAFE)
        mode = self.random.choice((0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE))
        start, length = self.random.randrange(SIZE_MAX), self.random.randrange(1, 200_000)
        _libc.fallocate(fd, mode, ctypes.c_long(start), ctypes.c_long(length))
        os.close(fd)

    def copy(self) -> None:
        source = os.open(self.name(), os.O_RDONLY | SAFE)
        target = os.open(self.name(), os.O_WRONLY | os.O_CREAT | SAFE, 0o644)
        if os.fstat(source).st_ino != os.fstat(target).st_ino:
            if self.random.random() < 0.5:
                os.sendfile(target, source, 0, 50_000)
            else:
                os.copy_file_range(source, target, 50_000, 0, 10_000)
        os.close(source)
        os.close(target)

    def link(self) -> None:
        os.link(self.name(), self.name(), follow_symlinks=False)

    def symlink(self) -> None:
        os.symlink(self.random.choice(TARGETS), self.name())

    def fifo(self) -> None:
        os.mkfifo(self.name())

    def unlink(self) -> None:
        os.unlink(self.name())

    def rename(self) -> None:
        os.rename(self.name(), self.name())

    def replace_directory(self) -> None:
        source = self.directory()
        if sum(len(found[1]) for found in os.walk(source)) < 4:
            os.rename(source, self.directory())

    def mkdir(self) -> None:
        os.mkdir(self.directory())

    def rmdir(self) -> None:
        path = self.directory()
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)

    def metadata(self) -> None:
        path = self.random.choice((self.name, self.directory))()
        kind = self.random.randrange(4)
        if kind == 0:
            os.chmod(path, self.random.choice((0o600, 0o644, 0o755, 0o4711)))
        elif kind == 1:
            os.chown(path, self.random.randrange(5), 0, follow_symlinks=False)
        elif kind == 2:
            os.utime(path, ns=(0, self.random.randrange(2**60)))
        else:
            os.setxattr(path, "user.test", self.random.randbytes(20))

    def step(self) -> None:
        common: list[Callable[[], None]] = [self.write, self.append, self.write_open]
        rare: list[Callable[[], None]] = [
            self.keep_open, self.direct, self.map_file, self.store_mapped, self.truncate,
            self.allocate, self.copy, self.link, self.symlink, self.fifo, self.unlink, self.rename,
            self.replace_directory, self.mkdir, self.rmdir, self.metadata,
        ]  # fmt: skip
        act = self.random.choice(common if self.random.random() < 0.3 else rare)
        try:
            act()
        except (OSError, ValueError):
            return  # the name was not of the kind that the change needs


def main() -> None:
    base, seed = sys.argv[1], int(sys.argv[2])
    processes = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    for number in range(1, processes):
        if os.fork() == 0:
            seed += 1000 * number
            break
    churn = Churn(base, seed)
    while True:
        churn.step()
        time.sleep(0.002)


if __name__ == "__main__":
    main()
