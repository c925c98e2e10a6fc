"""Processes that could write to several volumes, and write to none, such as a monitor or a backup.

A mount namespace with several volumes mounted for writing makes one group of them, and its
processes are frozen for each. A namespace from which nothing was written for a while, through any
of those mounts, counts as if they were read-only, until it writes. When in doubt it counts as a
writer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffkeeper.errors import UnsupportedError
from diffkeeper.fsio.fanotify import Writes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from diffkeeper.fsio.mountinfo import Mount

OBSERVER_SECONDS = 60.0  # without a write, until who could write counts as a reader
OBSERVERS_MAX = 16  # of the 128 fanotify groups that root has by default
OBSERVER_PROCESSES_MAX = 64  # of one, which each survey checks


@dataclass(frozen=True, slots=True)
class Namespace:
    """A mount namespace as one pass saw it.

    members: its processes, each with the inode number of its directory in /proc; witness: one that
    sees all of it; mounts: by id, the writable ones of volumes that the pass was for; several:
    whether they belong to more than one; within: whether only file systems of this machine are on
    the path to them.
    """

    members: frozenset[tuple[int, int]]
    witness: int
    mounts: Mapping[int, Mount]
    several: bool
    within: bool


@dataclass(slots=True)
class _Watched:
    members: frozenset[tuple[int, int]]
    mounts: Mapping[int, Mount]
    since: float  # on the monotonic clock
    writes: Writes | None  # None: it wrote, or may have written

    def counts(self, now: float) -> bool:
        """Whether it was watched for long enough, at this moment."""
        return now - self.since >= OBSERVER_SECONDS

    def end(self) -> None:
        if self.writes is not None:
            self.writes.close()
            self.writes = None

    def is_as(self, found: Namespace) -> bool:
        """Whether it is that namespace, with no further mount of a volume."""
        return found.mounts.keys() <= self.mounts.keys() and bool(self.members & found.members)


class Observers:
    """Watches namespaces for writes. Not thread-safe. `stores`: whether one of these processes may
    store unseen to a file on one of these devices, or has one open for writing; UnsupportedError
    where that cannot be found out.
    """

    def __init__(
        self, proc_root: str, stores: Callable[[Sequence[int], Collection[str]], bool]
    ) -> None:
        self._proc_root = proc_root
        self._stores = stores
        self._watched: dict[str, _Watched] = {}
        self._wrote = float("-inf")  # begin of the last pass that found an observer to have written

    def news(self) -> bool:
        """Whether a namespace that counted as an observer has written."""
        return any(each.writes is not None and each.writes.any() for each in self._watched.values())

    def wrote_since(self, moment: float) -> bool:
        """Whether one has written that counted as an observer at the pass of this moment."""
        return self._wrote > moment or any(
            each.writes is not None and each.counts(moment) and each.writes.any()
            for each in self._watched.values()
        )

    def without_writes(self, namespaces: Mapping[str, Namespace], now: float) -> set[str]:
        """Those of all namespaces that write nothing; `now`: begin of this pass."""
        for name in self._watched.keys() - namespaces.keys():
            self._watched.pop(name).end()
        return {name for name, found in namespaces.items() if self._observes(name, found, now)}

    def _observes(self, name: str, found: Namespace, now: float) -> bool:
        watched = self._watched.get(name)
        if watched is not None and not watched.is_as(found):
            self._watched.pop(name).end()
            watched = None
        if watched is None:
            if found.several:
                writes = self._begin(found)
                self._watched[name] = _Watched(found.members, found.mounts, now, writes)
            return False
        watched.members = found.members
        if watched.writes is not None and (watched.writes.any() or self._may_store(watched)):
            watched.end()
            self._wrote = now if watched.counts(now) else self._wrote
        return watched.writes is not None and watched.counts(now)

    def _may_store(self, watched: _Watched) -> bool:
        devices = {mount.device for mount in watched.mounts.values()}
        if len(watched.members) > OBSERVER_PROCESSES_MAX:
            return True
        try:
            return self._stores([pid for pid, _ in watched.members], devices)
        except UnsupportedError:
            return True

    def _begin(self, found: Namespace) -> Writes | None:
        """Watch for writes from now on; None where that is not possible."""
        watching = sum(each.writes is not None for each in self._watched.values())
        if not found.within or watching >= OBSERVERS_MAX:
            return None
        try:
            writes = Writes()
            for mount in found.mounts.values():
                writes.add(f"{self._proc_root}/{found.witness}/root{mount.point}", mount.id)
        except OSError:
            return None
        return writes
