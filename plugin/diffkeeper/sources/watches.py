"""The few inotify instances of this process, shared by the sources of all volumes.

Instances and watches are counted by user, and root's are those of most containers, too: a handful
of instances for any number of volumes, and a share of the watches, leave theirs to others. There is
more than one instance, since a queue that overflows makes all volumes on it be compared.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from typing import TYPE_CHECKING, Final, Protocol

from diffkeeper import clock, limits
from diffkeeper.errors import UnsupportedError
from diffkeeper.fsio import inotify, linux
from diffkeeper.fsio.inotify import InotifyEvent, Instance

if TYPE_CHECKING:
    from collections.abc import Sequence

INOTIFY_PAUSE_SECONDS = 0.02
INOTIFY_INSTANCES_MAX = 8  # of the 128 that root has by default
WATCHES_UNKNOWN = 8192  # default of kernels that do not show the limit


class Owner(Protocol):
    """An owner of watches. Called with the lock held, except for the properties.

    asked: another owner needs watches, and has fewer.
    """

    asked: bool

    @property
    def watch_count(self) -> int:
        """Number of watches that it has."""

    @property
    def wanted(self) -> int:
        """Number of watches that it would have without a limit."""

    def on_event(self, event: InotifyEvent) -> None:
        """Handle an event of one of this owner's watches."""

    def overflowed(self) -> None:
        """Events were lost; they may have been any owner's."""


class Watches:
    """Shares one inotify instance, which is open while it has owners. Methods from any thread.

    all: all objects of this class in the process, including this one; they share the process's
    watches.

    `lock` guards everything, including what the owners collect. A busy volume costs another one no
    more than reading the kernel's queue, which is bounded.
    """

    def __init__(self, all_: Sequence[Watches]) -> None:
        self._all = all_
        self.lock = threading.RLock()
        self._share = 0  # last result of `share`
        self._instance: Instance | None = None
        self._wake = -1
        self._pump: threading.Thread | None = None
        self._owners: set[Owner] = set()
        self._owner_of: dict[int, Owner] = {}

    def __len__(self) -> int:
        return len(self._owner_of)

    @property
    def owners(self) -> int:
        """Number of owners."""
        return len(self._owners)

    def join(self, owner: Owner) -> None:
        """Add an owner; raises UnsupportedError naming the limit that is reached."""
        with self.lock:
            if self._instance is None:
                self._open()
            self._owners.add(owner)

    def _open(self) -> None:
        try:
            self._instance = Instance()
        except OSError as error:
            raise UnsupportedError(
                f"inotify cannot be used ({error.strerror}):"
                f" raise {inotify.binding(inotify.INSTANCES)}"
            ) from error
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._pump = threading.Thread(
            target=self._run, args=(self._instance, self._wake), name="inotify", daemon=True
        )
        self._pump.start()

    def leave(self, owner: Owner, watches: Sequence[int]) -> None:
        """Remove an owner with all its watches; the last one closes the instance."""
        with self.lock:
            if owner not in self._owners:
                return
            self._owners.discard(owner)
            wake, pump, closing = self._wake, self._pump, None
            if not self._owners:
                closing, self._instance = self._instance, None
                self._owner_of.clear()
                watches = ()
        # Each leaves an event in the shared queue.
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
            held = sum(map(len, self._all))
            # The limits are read again only when the last known ones are exceeded.
            if held >= self._share and held >= self._ask_share():
                raise UnsupportedError(self.why_no_more())
            try:
                watch = self._instance.add(descriptor, mask)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.ENOMEM):
                    raise UnsupportedError(
                        "the kernel has no more inotify watches:"
                        f" raise {inotify.binding(inotify.WATCHES)}"
                    ) from error
                raise
            self._owner_of[watch] = owner
            return watch

    def _ask_share(self) -> int:
        self._share = share()
        return self._share

    def why_no_more(self) -> str:
        """Which limit applies to this process, and how to raise it."""
        return (
            f"{self._share} directories are watched with inotify, a {limits.WATCHES_SHARE}th of"
            f" {inotify.binding(inotify.WATCHES)}, and the rest is left to others: raise it"
        )

    def allowance(self, owner: Owner) -> int:
        """Number of watches that an owner may have.

        The same for each owner that wants more than that. An owner with more than its share gives
        some up: a volume with very many directories does not take a small one's.
        """
        owners = [each for one in self._all for each in list(one._owners)]
        wanted, room = [each.wanted for each in owners], self._ask_share()
        if sum(wanted) <= room:
            return room
        level = _level(wanted, room)
        for each in owners:
            each.asked = each.asked or (each is not owner and each.watch_count > level)
        return level

    def remove(self, owner: Owner, watch: int) -> None:
        """Remove a watch, unless another owner has taken the directory over."""
        with self.lock:
            if self._instance is not None and self._owner_of.get(watch) is owner:
                del self._owner_of[watch]
                self._instance.remove(watch)

    def read(self) -> None:
        """Read the kernel's queue and pass its events on."""
        with self.lock:
            if self._instance is not None:
                for event in self._instance.events():
                    self._hand_out(event)

    def _hand_out(self, event: InotifyEvent) -> None:
        if event.mask & linux.IN_Q_OVERFLOW:
            for owner in self._owners:
                owner.overflowed()
            return
        found = self._owner_of.get(event.watch)
        if found is not None:
            if event.mask & linux.IN_IGNORED:
                del self._owner_of[event.watch]
            found.on_event(event)

    def _run(self, instance: Instance, wake: int) -> None:
        poller = select.poll()
        poller.register(instance.descriptor, select.POLLIN)
        poller.register(wake, select.POLLIN)
        while not any(fd == wake for fd, _ in poller.poll()):
            self.read()
            # Each write is an event; waiting a little takes many at once.
            clock.sleep(INOTIFY_PAUSE_SECONDS)


def _end(instance: Instance, wake: int, pump: threading.Thread | None) -> None:
    os.eventfd_write(wake, 1)
    if pump is not None:
        pump.join()
    instance.close()
    os.close(wake)


def _level(wanted: Sequence[int], room: int) -> int:
    """The largest share of `room` for each, if together they want more."""
    left = len(wanted)
    for each in sorted(wanted):
        if each > room // left:
            break
        room -= each
        left -= 1
    return room // max(left, 1)


def share() -> int:
    """Number of watches that this process may have in all, as the kernel's limits are now."""
    most = inotify.lowest(inotify.WATCHES)
    return (WATCHES_UNKNOWN if most is None else most) // limits.WATCHES_SHARE


class Instances:
    """All instances of this process. Thread safe."""

    def __init__(self) -> None:
        self._all: list[Watches] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(map(len, self._all))

    def least_used(self) -> Watches:
        """The instance that a new source should use."""
        with self._lock:
            found = min(self._all, key=lambda each: each.owners, default=None)
            few = len(self._all) < INOTIFY_INSTANCES_MAX
            if found is None or (found.owners and few):
                found = Watches(self._all)
                self._all.append(found)
            return found


SHARED: Final = Instances()
