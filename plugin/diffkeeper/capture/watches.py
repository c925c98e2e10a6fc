"""The few inotify instances of this process, which the sources of all volumes share.

Instances and watches are counted by user, and root's are those of most containers, too: a handful
of instances for any number of volumes, and a share of the watches, leave theirs to others. More
than one, since a queue that overflows has all volumes on it compared.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from typing import TYPE_CHECKING, Final, Protocol

from diffkeeper import clock, limits
from diffkeeper.errors import UnsupportedError
from diffkeeper.fsio import linux
from diffkeeper.fsio.inotify import Event, Instance

if TYPE_CHECKING:
    from collections.abc import Sequence

_LIMITS: Final = ("/proc/sys/fs/inotify/max_user_watches", "/proc/sys/user/max_inotify_watches")


class Owner(Protocol):
    """Who has watches. Called with the lock held."""

    def take(self, event: Event) -> None:
        """Something happened to a watch of this owner."""

    def overflowed(self) -> None:
        """Events were lost, of whichever owner."""


class Watches:
    """Shares out one instance, open while anybody has joined. Methods from any thread.

    all: every one of this process, itself among them; they share the watches that may be had.

    `lock` guards all of it, and what the owners gather. A busy volume costs another one no more
    than the look at what the kernel's queue holds, which is bounded.
    """

    def __init__(self, all_: Sequence[Watches]) -> None:
        self._all = all_
        self.lock = threading.RLock()
        self.share = 0  # watches that may be had in all
        self._instance: Instance | None = None
        self._wake = -1
        self._pump: threading.Thread | None = None
        self._owners: set[Owner] = set()
        self._owner_of: dict[int, Owner] = {}

    def __len__(self) -> int:
        return len(self._owner_of)

    @property
    def owners(self) -> int:
        """How many have joined."""
        return len(self._owners)

    def join(self, owner: Owner) -> None:
        """Take part; raises UnsupportedError naming the limit that is reached."""
        with self.lock:
            if self._instance is None:
                self._open()
            self._owners.add(owner)

    def _open(self) -> None:
        try:
            self._instance = Instance()
        except OSError as error:
            raise UnsupportedError(
                f"inotify cannot be used ({error.strerror}): raise fs.inotify.max_user_instances"
            ) from error
        self.share = min(map(_number, _LIMITS)) // limits.WATCHES_SHARE
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._pump = threading.Thread(
            target=self._run, args=(self._instance, self._wake), name="inotify", daemon=True
        )
        self._pump.start()

    def leave(self, owner: Owner, watches: Sequence[int]) -> None:
        """Give up all watches of an owner, which are these; the last one closes the instance."""
        with self.lock:
            if owner not in self._owners:
                return
            self._owners.discard(owner)
            wake, pump, closing = self._wake, self._pump, None
            if not self._owners:
                closing, self._instance = self._instance, None
                self._owner_of.clear()
                watches = ()
        # Each leaves an event in the queue that is for all.
        for start in range(0, len(watches), limits.INOTIFY_REMOVED_AT_ONCE):
            with self.lock:
                for watch in watches[start : start + limits.INOTIFY_REMOVED_AT_ONCE]:
                    self.remove(owner, watch)
                self.read()
        if closing is not None:
            _end(closing, wake, pump)

    def add(self, owner: Owner, descriptor: int, mask: int) -> int:
        """Watch a directory; raises UnsupportedError at a limit, naming what to raise."""
        with self.lock:
            if self._instance is None or owner not in self._owners:
                raise OSError(errno.EBADF, "the source is not started")
            if sum(map(len, self._all)) >= self.share:
                raise UnsupportedError(
                    f"{self.share} directories are watched with inotify, a"
                    f" {limits.WATCHES_SHARE}th of fs.inotify.max_user_watches, and the rest is"
                    " left to others: raise it"
                )
            try:
                watch = self._instance.add(descriptor, mask)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.ENOMEM):
                    raise UnsupportedError(
                        "inotify watch limit reached, with"
                        f" {sum(map(len, self._all))} directories watched here:"
                        " raise fs.inotify.max_user_watches"
                    ) from error
                raise
            self._owner_of[watch] = owner
            return watch

    def remove(self, owner: Owner, watch: int) -> None:
        """Forget a watch, unless another owner has taken the directory over."""
        with self.lock:
            if self._instance is not None and self._owner_of.get(watch) is owner:
                del self._owner_of[watch]
                self._instance.remove(watch)

    def read(self) -> None:
        """Hand out what the kernel has queued by now."""
        with self.lock:
            if self._instance is not None:
                for event in self._instance.events():
                    self._hand_out(event)

    def _hand_out(self, event: Event) -> None:
        if event.mask & linux.IN_Q_OVERFLOW:
            for owner in self._owners:
                owner.overflowed()
            return
        found = self._owner_of.get(event.watch)
        if found is not None:
            if event.mask & linux.IN_IGNORED:
                del self._owner_of[event.watch]
            found.take(event)

    def _run(self, instance: Instance, wake: int) -> None:
        poller = select.poll()
        poller.register(instance.descriptor, select.POLLIN)
        poller.register(wake, select.POLLIN)
        while not any(fd == wake for fd, _ in poller.poll()):
            self.read()
            # Events come one per write; waiting a little takes them in batches.
            clock.sleep(limits.INOTIFY_PAUSE_SECONDS)


def _end(instance: Instance, wake: int, pump: threading.Thread | None) -> None:
    os.eventfd_write(wake, 1)
    if pump is not None:
        pump.join()
    instance.close()
    os.close(wake)


def _number(path: str) -> int:
    """A limit of the kernel's; what every kernel has is the least that is taken for granted."""
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except FileNotFoundError:
        return limits.WATCHES_UNKNOWN


class Instances:
    """All of this process. For any thread."""

    def __init__(self) -> None:
        self._all: list[Watches] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(map(len, self._all))

    def least_used(self) -> Watches:
        """The one that a new source is to join."""
        with self._lock:
            found = min(self._all, key=lambda each: each.owners, default=None)
            few = len(self._all) < limits.INOTIFY_INSTANCES_MAX
            if found is None or (found.owners and few):
                found = Watches(self._all)
                self._all.append(found)
            return found


SHARED: Final = Instances()
