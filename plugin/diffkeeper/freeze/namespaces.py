"""The host's mount namespaces and the mounts of each, kept up to date at little cost.

A process is identified by its number and the inode number of its directory in /proc, which another
process of the same number does not share. The namespace of a process that is known for a while is
read again only from time to time, and so are the mounts of a namespace while no new process is in
it. No descriptor is kept open: one on a mountinfo would report changes, and would keep all mounts
of the namespace, those of other volumes too, busy after its container is gone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from diffkeeper import clock, limits
from diffkeeper.freeze.processes import directories, read_of
from diffkeeper.fsio import mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterator

_Key = tuple[int, int]
_JITTER = 8


@dataclass(slots=True)
class _Process:
    namespace: str
    first: float
    due: float


@dataclass(frozen=True, slots=True)
class MountPlace:
    """A directory `root` of the file system `device`, mounted on another directory.

    on: device and path of that one. A copy of a mount, by a recursive bind or by propagation, is
    at the same place as its original, wherever the process sees it.
    """

    device: str
    root: str
    on: tuple[str, str]


class MountTable:
    """What one process has mounted: `by_device`, in order."""

    def __init__(self, found: list[mountinfo.Mount]) -> None:
        self._by_id = {mount.id: mount for mount in found}
        self.by_device: dict[str, list[mountinfo.Mount]] = {}
        for mount in found:
            self.by_device.setdefault(mount.device, []).append(mount)

    @cached_property
    def places(self) -> frozenset[MountPlace]:
        """The places of all mounts, as far as the process sees them."""
        places = map(self.place, self._by_id.values())
        return frozenset(place for place in places if place is not None)

    def within(self, mount: mountinfo.Mount) -> bool:
        """Whether the path to a mount leads only over file systems that need no other process."""
        at = self._by_id.get(mount.parent)
        while at is not None and at.fs_type in mountinfo.LOCAL:
            if at.point == "/":
                return True
            at = self._by_id.get(at.parent)
        return False

    def place(self, mount: mountinfo.Mount) -> MountPlace | None:
        """Place of the mount; None when what it is mounted on is out of the process's sight."""
        parent = self._by_id.get(mount.parent)
        if parent is None:
            return None
        on = parent.device, mountinfo.inside(parent, mount.point)
        return MountPlace(mount.device, mount.root, on)


class View:
    """The mounts of one mount namespace, as seen by each of its members with a root of its own."""

    def __init__(self, tables: list[MountTable], witness: _Key, first: float, now: float) -> None:
        self.members: frozenset[_Key] = frozenset()
        self.namespace = ""
        self.tables = tables
        self.witness = witness
        self.first = first
        self.due = _due(first, now, witness[0])


class Namespaces:
    """Every mount namespace but ours and process 1's. Not thread-safe."""

    def __init__(self, proc_root: str) -> None:
        self._proc_root = proc_root
        self._processes: dict[_Key, _Process] = {}
        self._views: dict[str, View] = {}
        self._hosts: dict[int | str, tuple[bytes, MountTable]] = {}

    def views(self, afresh: bool) -> Iterator[tuple[View, list[int]]]:
        """Each namespace with its processes; `afresh` reads the mounts of all of them again."""
        now = clock.monotonic()
        known, self._views = self._views, {}
        for namespace, members in self._groups(now).items():
            view = known.get(namespace)
            if view is None or view.witness not in members:
                view = self._read(members, now, now)
            elif afresh or now >= view.due or not view.members.issuperset(members):
                view = self._read(members, view.first, now)
            view.members, view.namespace = frozenset(members), namespace
            self._views[namespace] = view
            yield view, [pid for pid, _ in members]

    def table(self, pid: int | str) -> MountTable:
        """The mounts that a process sees; none when it is exiting, for it writes no more."""
        return MountTable(mountinfo.parse(self._mountinfo(pid)))

    def host_tables(self) -> list[MountTable]:
        """The mounts of process 1 and of this process; parsed again only if they changed."""
        for pid in (1, "self"):
            text = self._mountinfo(pid)
            if pid not in self._hosts or self._hosts[pid][0] != text:
                self._hosts[pid] = text, MountTable(mountinfo.parse(text))
        return [table for _, table in self._hosts.values()]

    def _mountinfo(self, pid: int | str) -> bytes:
        return read_of(self._proc_root, pid, "mountinfo")

    def _groups(self, now: float) -> dict[str, list[_Key]]:
        groups: dict[str, list[_Key]] = {}
        for key, process in self._refresh(now).items():
            groups.setdefault(process.namespace, []).append(key)
        for namespace in ("", self._namespace("self"), self._namespace("1")):
            groups.pop(namespace, None)
        return groups

    def _refresh(self, now: float) -> dict[_Key, _Process]:
        """All processes, with namespaces that are recent enough."""
        old, current = self._processes, {}
        with os.scandir(self._proc_root) as entries:
            for entry in entries:
                if not entry.name.isdecimal():
                    continue
                key = int(entry.name), entry.inode()
                process = old.get(key)
                if process is None:
                    process = _Process(self._namespace(entry.name), now, now)
                elif now >= process.due:
                    process.namespace = self._namespace(entry.name)
                    process.due = _due(process.first, now, key[0])
                current[key] = process
        self._processes = current
        return current

    def _namespace(self, pid: str) -> str:
        found = map(mountinfo.namespace_of, directories(self._proc_root, pid))
        return next(filter(None, found), "")

    def _read(self, members: list[_Key], first: float, now: float) -> View:
        """The mounts of a namespace. A process that has changed its root sees only those below
        it.
        """
        roots: dict[str, _Key] = {}
        for key in members:
            root = self._root(key[0])
            if root == "/" and (table := self.table(key[0])).by_device:
                return View([table], key, first, now)
            roots.setdefault(root, key)
        return View([self.table(key[0]) for key in roots.values()], members[0], first, now)

    def _root(self, pid: int) -> str:
        for directory in directories(self._proc_root, pid):
            try:
                return os.readlink(f"{directory}/root")
            except OSError:
                continue
        return f"of process {pid}"


def _due(first: float, now: float, number: int) -> float:
    """When to read it again: at the next survey for a new process, seldom and at different times
    for an old one.
    """
    trusted = limits.SURVEY_TRUST_SECONDS
    return now if now - first < trusted else now + trusted * (1 + number % _JITTER / _JITTER)
