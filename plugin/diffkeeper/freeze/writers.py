"""Who can write to a volume: every process that sees it from a mount namespace of its own.

The mount tables of the processes are the truth here, so that this works for any container runtime
and needs no socket of one. A namespace is what its processes show of it at each call: keeping a
descriptor on it would be cheaper, and would hold its mounts, other volumes among them, busy after
its container is gone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffkeeper.freeze import processes
from diffkeeper.freeze.cgroups import Hierarchy, topmost
from diffkeeper.freeze.mounts import Mount, Target, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Survey", "Target", "Writers"]


@dataclass(frozen=True, slots=True)
class Writers:
    """The writers of one target.

    `cgroups`: directories to freeze, topmost only; `pids`: all writing processes; `unfreezable`: a
    sentence for each process that no freeze can stop: a snapshot is fuzzy while there is one.
    """

    cgroups: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    unfreezable: tuple[str, ...] = ()


class Survey:
    """Finds the writers of volumes. Not thread-safe; keeps no descriptor between calls.

    A namespace that has the host's own root file system, such as a system service's, counts as
    the host where it shows the volume at the very place where the host has it: that is a propagated
    copy of the host's mount. A read-only mount makes no writer.
    """

    def __init__(self, proc_root: str = "/proc", cgroup_root: str = "/sys/fs/cgroup") -> None:
        self._proc_root = proc_root
        self._hierarchy = Hierarchy(cgroup_root, proc_root)
        self._mappings = processes.MappingScanner(proc_root)
        self._parsed: dict[bytes, list[Mount]] = {}

    def find(self, targets: Sequence[Target]) -> dict[Target, Writers]:
        """The writers of each target, in one pass over all processes (a few ms for hundreds)."""
        by_dev: dict[str, list[Target]] = {}
        for target in targets:
            by_dev.setdefault(target.dev, []).append(target)
        writers: dict[Target, list[int]] = {target: [] for target in targets}
        if targets:
            parsed: dict[bytes, list[Mount]] = {}
            host = _Host(self._mounts("1", parsed))
            for pids in self._namespaces():
                for target in _seen(self._view(pids, parsed), by_dev, host):
                    writers[target].extend(pids)
            self._parsed = parsed
        places = _Places(self._proc_root, self._hierarchy)
        return {target: places.writers(pids) for target, pids in writers.items()}

    def mapped_writable(self, pids: Iterable[int], dev: str) -> set[int]:
        """Inodes on the file system `dev` that one of `pids` can store into through a mapping."""
        return self._mappings.inodes(pids, dev)

    def aio_pids(self, pids: Iterable[int]) -> set[int]:
        """Those of `pids` with asynchronous I/O set up, whose writes a freeze does not stop."""
        return processes.aio_pids(self._proc_root, pids)

    def open_for_write(self, pids: Iterable[int], dev: str) -> set[int]:
        """Inodes on the file system `dev` that one of `pids` has open for writing."""
        return processes.open_for_write(self._proc_root, pids, dev)

    def _namespaces(self) -> Iterator[list[int]]:
        """The processes of each mount namespace that is neither ours nor the host's."""
        groups: dict[str, list[int]] = {}
        root = os.open(self._proc_root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            skipped = {os.readlink(f"{pid}/ns/mnt", dir_fd=root) for pid in ("self", "1")}
            for name in os.listdir(self._proc_root):
                if name.isdecimal():
                    namespace = _namespace(name, root)
                    if namespace not in skipped:
                        groups.setdefault(namespace, []).append(int(name))
        finally:
            os.close(root)
        groups.pop("", None)
        yield from groups.values()

    def _view(self, pids: list[int], parsed: dict[bytes, list[Mount]]) -> list[Mount]:
        """The mounts of a namespace. A process that has changed its root sees only those below."""
        roots: dict[str, int] = {}
        for pid in pids:
            try:
                root = os.readlink(f"{self._proc_root}/{pid}/root")
            except OSError:
                continue  # It is ending, and writes no more.
            if root == "/" and (mounts := self._mounts(str(pid), parsed)):
                return mounts
            roots.setdefault(root, pid)
        return [mount for pid in roots.values() for mount in self._mounts(str(pid), parsed)]

    def _mounts(self, pid: str, parsed: dict[bytes, list[Mount]]) -> list[Mount]:
        try:
            with open(f"{self._proc_root}/{pid}/mountinfo", "rb", buffering=0) as file:
                text = processes.read_all(file.fileno())
        except OSError:
            return []  # It is ending, and writes no more.
        mounts = self._parsed.get(text)
        parsed[text] = parse(text) if mounts is None else mounts
        return parsed[text]


class _Host:
    """The host's mounts, as process 1 has them."""

    def __init__(self, mounts: list[Mount]) -> None:
        self._places = {(mount.dev, mount.root, mount.point) for mount in mounts}
        self._root = _root(mounts)

    def shares_root(self, mounts: list[Mount]) -> bool:
        return _root(mounts) == self._root

    def has(self, mount: Mount) -> bool:
        return (mount.dev, mount.root, mount.point) in self._places


class _Places:
    """Processes to cgroups, each cgroup's list of processes read once."""

    def __init__(self, proc_root: str, hierarchy: Hierarchy) -> None:
        self._proc_root = proc_root
        self._hierarchy = hierarchy
        self._own = hierarchy.own()
        self._known: dict[int, str] = {}

    def writers(self, pids: list[int]) -> Writers:
        """Raises nothing for processes that vanish: they write no more."""
        alive: list[int] = []
        cgroups: set[str] = set()
        unfreezable: list[str] = []
        for pid in sorted(pids):
            try:
                directory, reason = self._place(pid)
            except OSError:
                continue
            alive.append(pid)
            if directory in self._own:
                reason = "its cgroup holds DiffKeeper itself"
            if reason:
                unfreezable.append(f"process {pid} ({self._name(pid)}): {reason}")
            else:
                cgroups.add(directory)
        return Writers(tuple(topmost(cgroups)), tuple(alive), tuple(unfreezable))

    def _place(self, pid: int) -> tuple[str, str]:
        if pid in self._known:
            return self._known[pid], ""
        with open(f"{self._proc_root}/{pid}/cgroup", "rb", buffering=0) as file:
            directory, reason = self._hierarchy.directory(processes.read_all(file.fileno()))
        if directory and self._hierarchy.same_pids:
            for member in self._hierarchy.members(directory):
                self._known[member] = directory
        return directory, reason

    def _name(self, pid: int) -> str:
        try:
            with open(f"{self._proc_root}/{pid}/comm", encoding="utf-8", errors="replace") as file:
                return file.read().rstrip("\n")
        except OSError:
            return "ended"


def _seen(mounts: list[Mount], by_dev: dict[str, list[Target]], host: _Host) -> set[Target]:
    """The targets that a namespace with these mounts can write to."""
    found = [
        (mount, target)
        for mount in mounts
        if mount.writable and mount.dev in by_dev
        for target in by_dev[mount.dev]
        if target.holds(mount.root)
    ]
    if found and host.shares_root(mounts):
        found = [(mount, target) for mount, target in found if not host.has(mount)]
    return {target for _, target in found}


def _root(mounts: list[Mount]) -> tuple[str, str]:
    """File system and directory that the topmost mount on "/" shows."""
    return next(((m.dev, m.root) for m in reversed(mounts) if m.point == "/"), ("", ""))


def _namespace(pid: str, root: int) -> str:
    """The mount namespace's name; empty for a process that is ending.

    Where we may not look, the process is a namespace of its own: its mounts are readable anyway.
    """
    try:
        return os.readlink(f"{pid}/ns/mnt", dir_fd=root)
    except PermissionError:
        return f"of process {pid}"
    except OSError:
        return ""
