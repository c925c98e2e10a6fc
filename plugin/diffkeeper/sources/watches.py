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
from diffkeeper.fsio import inotify, linux
from diffkeeper.fsio.inotify import InotifyEvent, Instance

if TYPE_CHECKING:
    from collections.abc import Sequence

INOTIFY_PAUSE_SECONDS = 0.02
INOTIFY_INSTANCES_MAX = 8  # of the 128 that root has by default
WATCHES_UNKNOWN = 8192  # what kernels begin with


class Owner(Protocol):
    """Who has watches. Called with the lock held, but for what it tells of itself.

    asked: there is somebody who lacks watches, and has fewer.
    """

    asked: bool

    @property
    def watch_count(self) -> int:
        """Watches that it has."""

    @property
    def wanted(self) -> int:
        """Watches that it would have, had everybody all."""

    def on_event(self, event: InotifyEvent) -> None:
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
        self._share = 0  # what `share` told last
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
                f"inotify cannot be used ({error.strerror}):"
                f" raise {inotify.binding(inotify.INSTANCES)}"
            ) from error
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
            held = sum(map(len, self._all))
            # What may be had is asked again only where the last answer says that it is too much.
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
        """What limits the watches of this process, and what to do about it."""
        return (
            f"{self._share} directories are watched with inotify, a {limits.WATCHES_SHARE}th of"
            f" {inotify.binding(inotify.WATCHES)}, and the rest is left to others: raise it"
        )

    def allowance(self, owner: Owner) -> int:
        """Watches that an owner may have who wants more, or is asked for some.

        As many for each, but for those that want fewer. Who has more than that is asked for them:
        a volume with very many directories takes no small one's.
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
            # Events come one per write; waiting a little takes them in batches.
            clock.sleep(INOTIFY_PAUSE_SECONDS)


def _end(instance: Instance, wake: int, pump: threading.Thread | None) -> None:
    os.eventfd_write(wake, 1)
    if pump is not None:
        pump.join()
    instance.close()
    os.close(wake)


def _level(wanted: Sequence[int], room: int) -> int:
    """The most that each gets of `room`, which is less than they want together."""
    left = len(wanted)
    for each in sorted(wanted):
        if each > room // left:
            break
        room -= each
        left -= 1
    return room // max(left, 1)


def share() -> int:
    """Watches that this process may have in all, as the kernel's limits are now."""
    most = inotify.lowest(inotify.WATCHES)
    return (WATCHES_UNKNOWN if most is None else most) // limits.WATCHES_SHARE


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
            few = len(self._all) < INOTIFY_INSTANCES_MAX
            if found is None or (found.owners and few):
                found = Watches(self._all)
                self._all.append(found)
            return found


SHARED: Final = Instances()
