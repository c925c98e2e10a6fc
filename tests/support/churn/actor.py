"""One thread of the churn: its names, its randomness, and what it holds open."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.churn import syscalls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.churn.aio import Aio
    from tests.support.churn.uring import Ring

SAFE = os.O_NOFOLLOW | os.O_NONBLOCK  # neither through a link nor stuck at a FIFO
PAGE = mmap.PAGESIZE
WINDOW = 2 << 20  # what a huge page, or the page cache's largest folio, spans
SMALL_BYTES = 300_000
LARGE_BYTES = 6 << 20
OPEN_MAX = 6
SIZES = (1, 100, 4096, 8192, 65536, 200_000)


@dataclass
class EditKind:
    """A way to change something, and how often it is tried."""

    name: str
    act: Callable[[Actor], None]
    weight: int


KINDS: dict[str, EditKind] = {}


def kind(weight: int = 2) -> Callable[[Callable[[Actor], None]], Callable[[Actor], None]]:
    """Registers a function under its name."""

    def register(act: Callable[[Actor], None]) -> Callable[[Actor], None]:
        KINDS[act.__name__] = EditKind(act.__name__, act, weight)
        return act

    return register


@dataclass
class Mapping:
    """A shared mapping: `start` is an address, `at` the position in the file."""

    start: int
    length: int
    at: int = 0
    path: str = ""
    inode: int = 0

    def end(self) -> None:
        syscalls.munmap(self.start, self.length)


@dataclass
class Actor:
    """`tag` tells this thread's own names from those of others; `outside` is no part of `base`."""

    base: str
    outside: str
    tag: str
    random: random.Random = field(default_factory=random.Random)
    open: dict[int, str] = field(default_factory=dict)  # descriptor to the name that it had
    maps: list[Mapping] = field(default_factory=list)
    own_maps: list[Mapping] = field(default_factory=list)
    children: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    last: int = 0  # where something was written last
    aio: Aio | None = None
    ring: Ring | None = None
    source: int = -1  # a file in memory, full of random bytes

    # Names. `f…` and `b…` (large) are everyone's; `s…` are changed in size by one thread alone, so
    # that an ordinary store to their mapping cannot end the process.

    def directory(self) -> str:
        parts = [f"d{self.random.randrange(3)}" for _ in range(self.random.choice((1, 1, 2)))]
        return self._noted(os.path.join(self.base, *parts))

    def small(self) -> str:
        depth = self.random.choice((0, 0, 0, 1, 1, 2))
        parts = [f"d{self.random.randrange(3)}" for _ in range(depth)]
        return self._noted(os.path.join(self.base, *parts, f"f{self.random.randrange(8)}"))

    def large(self) -> str:
        return self._noted(os.path.join(self.base, f"b{self.random.randrange(3)}"))

    def name(self) -> str:
        return self.large() if self.random.random() < 0.2 else self.small()

    def own(self) -> str:
        return self._noted(os.path.join(self.base, f"s{self.tag}_{self.random.randrange(2)}"))

    def out(self) -> str:
        return self._noted(os.path.join(self.outside, f"o{self.random.randrange(5)}"))

    def _noted(self, path: str) -> str:
        """For the log."""
        self.notes.append(os.path.relpath(path, self.base))
        return path

    def note_file(self, fd: int) -> None:
        """For the log, too: names move."""
        self.notes.append(f"#{os.fstat(fd).st_ino}")

    def link(self, source: str, target: str) -> None:
        """Another name for what is at a name; the log tells of what, as `+inode`."""
        self.notes.append(f"+{syscalls.link(source, target)}")

    # Data and positions

    def data(self, large: bool = False) -> bytes:
        size = self.random.choice((*SIZES, 1 << 20, 3 << 20) if large else SIZES)
        if self.random.random() < 0.1:
            return bytes(size)
        return self.random.randbytes(size)

    def position(self, path: str = "") -> int:
        """Anywhere in the file, but often in the page or the window that was written last."""
        limit = LARGE_BYTES if os.path.basename(path).startswith("b") else SMALL_BYTES
        where = self.random.random()
        if where < 0.15:
            self.last = self.last // PAGE * PAGE + self.random.randrange(PAGE)
        elif where < 0.3:
            self.last = self.last // WINDOW * WINDOW + self.random.randrange(WINDOW)
        else:
            self.last = self.random.randrange(limit)
        self.last %= limit
        return self.last

    def random_source(self) -> int:
        """A descriptor to read random bytes from, at positions below WINDOW."""
        if self.source < 0:
            self.source = os.memfd_create("source")
            os.pwrite(self.source, self.random.randbytes(WINDOW + LARGE_BYTES), 0)
        return self.source

    @contextlib.contextmanager
    def opened(self, path: str, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
        """A descriptor that is closed at the end."""
        fd = os.open(path, flags | SAFE, 0o644)
        self.note_file(fd)
        try:
            yield fd
        finally:
            os.close(fd)

    def keep(self, path: str, flags: int = os.O_RDWR | os.O_CREAT) -> int:
        """A descriptor that stays open for a while."""
        fd = os.open(path, flags | SAFE, 0o644)
        self.note_file(fd)
        self.open[fd] = path
        if len(self.open) > OPEN_MAX:
            oldest = next(iter(self.open))
            del self.open[oldest]
            os.close(oldest)
        return fd

    def kept(self) -> int:
        """One that is open still; raises OSError when there is none."""
        if not self.open:
            raise OSError(errno.EBADF, "nothing is open")
        fd = self.random.choice(list(self.open))
        self._noted(self.open[fd])
        self.note_file(fd)
        return fd

    def mapped(self, maps: list[Mapping]) -> Mapping:
        """One of the mappings; raises OSError when there is none."""
        if not maps:
            raise OSError(errno.EBADF, "nothing is mapped")
        mapping = self.random.choice(maps)
        self._noted(mapping.path)
        self.notes.append(f"#{mapping.inode}")
        self.last = mapping.at
        return mapping

    def buffer(self, size: int) -> mmap.mmap:
        """Page-aligned memory with random content, as direct I/O needs it."""
        memory = mmap.mmap(-1, size)
        memory.write(self.random.randbytes(size))
        return memory

    def reap(self) -> None:
        """Forget children that have ended."""
        self.children = [pid for pid in self.children if os.waitpid(pid, os.WNOHANG)[0] == 0]


def address(memory: mmap.mmap) -> int:
    """Where writable memory lies."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
