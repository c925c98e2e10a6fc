"""One freezable cgroup (v1 freezer or v2), and the mapping from a process to its cgroup.

Both versions freeze hierarchically, and both distinguish what was requested of this very cgroup
(`freezer.self_freezing`, `cgroup.freeze`) from what it has reached (`freezer.state`,
`cgroup.events`), so that a user's pause is recognised, also on an ancestor.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffkeeper import clock
from diffkeeper.errors import FreezeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FREEZE_POLL_SECONDS = 0.000_05

_STATE_BYTES = 256
_VANISHED = frozenset({errno.ENODEV, errno.ENOENT})


@dataclass(frozen=True, slots=True)
class Flavour:
    """File names and values of one cgroup version's freezer."""

    control: str
    requested: str
    reached: str
    freeze: bytes
    thaw: bytes
    frozen: bytes


V1 = Flavour(
    control="freezer.state",
    requested="freezer.self_freezing",
    reached="freezer.state",
    freeze=b"FROZEN",
    thaw=b"THAWED",
    frozen=b"FROZEN",
)
V2 = Flavour(
    control="cgroup.freeze",
    requested="cgroup.freeze",
    reached="cgroup.events",
    freeze=b"1",
    thaw=b"0",
    frozen=b"frozen 1",
)


class Cgroup:
    """A cgroup whose freezer files stay open. A cgroup that is removed counts as frozen: `gone`.

    Not thread-safe. Every method raises FreezeError when the kernel refuses.
    """

    def __init__(self, directory: str, flavour: Flavour) -> None:
        self.directory = directory
        self.flavour = flavour
        self.control_path = f"{directory}/{flavour.control}"
        self.gone = False
        self._control = os.open(self.control_path, os.O_RDWR | os.O_CLOEXEC)
        self._descriptors = {flavour.control: self._control}
        try:
            for name in {flavour.requested, flavour.reached} - {flavour.control}:
                self._descriptors[name] = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.close()
            raise
        self._requested = self._descriptors[flavour.requested]
        self._reached = self._descriptors[flavour.reached]

    @classmethod
    def open(cls, directory: str) -> Cgroup | None:
        """Open the freezer of `directory`; None when the cgroup does not exist (any more).

        Raises FreezeError when it exists but has no freezer that we may write.
        """
        try:
            if flavour := _flavour(directory):
                return cls(directory, flavour)
        except OSError as error:
            if error.errno not in _VANISHED:
                raise FreezeError(f"cgroup {directory}: {error.strerror}") from error
        if os.path.isdir(directory):
            raise FreezeError(f"cgroup {directory} has no freezer; the root cgroup has none")
        return None

    def close(self) -> None:
        """Release the descriptors; the cgroup's state stays as it is."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def requested(self) -> bool:
        """True when somebody (we or a user) asked for this very cgroup to be frozen."""
        return self._read(self._requested).startswith(b"1")

    def frozen(self) -> bool:
        """True when every process in it is frozen, for whatever reason, or it is gone."""
        return self.flavour.frozen in self._read(self._reached) or self.gone

    def freeze(self) -> None:
        """Request the freeze; `wait_frozen` waits until it is reached."""
        self._write(self.flavour.freeze)

    def thaw(self) -> None:
        """Withdraw our request; a cgroup below a frozen ancestor stays frozen."""
        self._write(self.flavour.thaw)

    def wait_frozen(self, deadline: float) -> bool:
        """Poll until frozen; False when the monotonic `deadline` passes first."""
        while not self.frozen():
            if clock.monotonic() >= deadline:
                return False
            clock.sleep(FREEZE_POLL_SECONDS)
        return True

    def _read(self, descriptor: int) -> bytes:
        try:
            return os.pread(descriptor, _STATE_BYTES, 0)
        except OSError as error:
            self._vanished(error)
            return b""

    def _write(self, value: bytes) -> None:
        try:
            os.pwrite(self._control, value, 0)
        except OSError as error:
            self._vanished(error)

    def _vanished(self, error: OSError) -> None:
        if error.errno not in _VANISHED:
            raise FreezeError(f"cgroup {self.directory}: {error.strerror}") from error
        self.gone = True


class Hierarchy:
    """The host's freezer hierarchies under `cgroup_root`: v1, v2, or both on a hybrid host."""

    def __init__(self, cgroup_root: str, proc_root: str = "/proc") -> None:
        root = cgroup_root.rstrip("/") or "/"
        self._proc_root = proc_root
        self.v1 = _mounted(f"{root}/freezer", "cgroup.procs")
        self.v2 = _mounted(root, "cgroup.controllers") or _mounted(
            f"{root}/unified", "cgroup.controllers"
        )
        self.same_pids = os.readlink(f"{proc_root}/self") == str(os.getpid())
        self._bases: dict[str, str] = {}

    def directory(self, membership: bytes) -> tuple[str, str]:
        """Cgroup directory from the content of `/proc/PID/cgroup`, and why it can't be frozen.

        Exactly one of the two is empty. The v1 freezer is preferred; where it is not mounted, or
        the process is in its root, the v2 cgroup is used.
        """
        found = [self._resolve(mount, path) for mount, path in self._paths(membership)]
        usable = [directory for directory, reason in found if not reason]
        if usable:
            return usable[0], ""
        return "", found[0][1] if found else "no freezer hierarchy is mounted"

    def own(self, guard: int = 0) -> set[str]:
        """Every directory, v1 and v2, whose freeze would stop us or the process `guard`."""
        result: set[str] = set()
        for pid in ("self", str(guard)) if guard and self.same_pids else ("self",):
            with open(f"{self._proc_root}/{pid}/cgroup", "rb") as file:
                membership = file.read()
            for mount, path in self._paths(membership):
                directory = self._place(mount, path)
                while directory == mount or directory.startswith(f"{mount}/"):
                    result.add(directory)
                    directory = os.path.dirname(directory)
        return result

    def members(self, directory: str) -> list[int]:
        """Processes of a cgroup without its descendants; none when it is gone or unreadable.

        Their numbers are those of our own pid namespace, as in /proc when `same_pids`.
        """
        try:
            with open(f"{directory}/cgroup.procs", "rb", buffering=0) as file:
                return [int(pid) for pid in file.read().split()]
        except OSError:
            return []

    def below(self, directory: str) -> Iterator[int]:
        """Processes of a cgroup and its descendants, if /proc uses the numbers of our pid
        namespace.
        """
        if self.same_pids:
            for path, _, _ in os.walk(directory):
                yield from self.members(path)

    def _paths(self, membership: bytes) -> list[tuple[str, str]]:
        """(mount, path) of the v1 freezer line, then of the v2 line, as far as mounted."""
        paths: dict[str, str] = {}
        for line in membership.splitlines():
            number, _, rest = line.partition(b":")
            controllers, _, path = rest.partition(b":")
            if self.v1 and b"freezer" in controllers.split(b","):
                paths[self.v1] = os.fsdecode(path)
            elif self.v2 and number == b"0" and not controllers:
                paths[self.v2] = os.fsdecode(path)
        return [(mount, paths[mount]) for mount in (self.v1, self.v2) if mount in paths]

    def _resolve(self, mount: str, path: str) -> tuple[str, str]:
        directory = self._place(mount, path)
        if directory == mount:
            return "", "it is in the root cgroup"
        if not directory.startswith(f"{mount}/"):
            return "", f"its cgroup {path} is outside our cgroup namespace"
        if not os.path.isdir(directory):
            return "", f"its cgroup {path} is not visible below {mount}"
        return directory, ""

    def _place(self, mount: str, path: str) -> str:
        return os.path.normpath(f"{self._base(mount)}/{path}")

    def _base(self, mount: str) -> str:
        """Directory of our cgroup namespace's root; paths in /proc are relative to it."""
        if mount not in self._bases:
            self._bases[mount] = mount
            with open(f"{self._proc_root}/self/cgroup", "rb") as file:
                view = dict(self._paths(file.read())).get(mount, "/").rstrip("/")
            if os.getpid() not in self.members(f"{mount}{view}"):
                for directory, _, _ in os.walk(mount):
                    if os.getpid() in self.members(directory) and directory.endswith(view):
                        self._bases[mount] = directory.removesuffix(view)
                        break
        return self._bases[mount]


def _flavour(directory: str) -> Flavour | None:
    """The version of a cgroup's freezer; None when it has none, or is gone."""
    found = (f for f in (V1, V2) if os.path.exists(f"{directory}/{f.control}"))
    return next(found, None)


def control_path(directory: str) -> str:
    """The file that freezes a cgroup; empty when it has none, or is gone."""
    flavour = _flavour(directory)
    return f"{directory}/{flavour.control}" if flavour else ""


def topmost(directories: Iterable[str]) -> list[str]:
    """Sorted, without duplicates and without those that have an ancestor in the list."""
    result: list[str] = []
    for directory in sorted(set(directories), key=lambda path: path.split("/")):
        if not result or not directory.startswith(f"{result[-1]}/"):
            result.append(directory)
    return result


def _mounted(directory: str, marker: str) -> str:
    return directory if os.path.exists(f"{directory}/{marker}") else ""
