"""Processes that do not freeze: which they are, and when their cgroup is tried again.

A freezer waits for every task of a cgroup to leave the kernel. A task in uninterruptible sleep (a
FUSE file system whose daemon is stopped, NFS without a server, a slow disk) keeps all others of its
cgroup frozen until the freeze is given up. So such a cgroup is skipped: for longer with each freeze
that fails, and long enough that it is frozen for no more than its share of the time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from diffkeeper import clock, limits
from diffkeeper.errors import FreezeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

FREEZE_RETRY_SECONDS_MAX = 60.0  # for which a cgroup that does not freeze is skipped, at most
STUCK_LOOK_SECONDS = 0.002
STUCK_LOOKS_MAX = 10
STUCK_TASKS_LOOKED_MAX = 1024
STUCK_TASKS_SHOWN_MAX = 3

_READ_BYTES = 4096
_WAITS = "D"  # the state in /proc/PID/stat of an uninterruptible sleep


@dataclass(frozen=True, slots=True)
class Task:
    """A thread in uninterruptible sleep; `waits` is the kernel function that it sleeps in."""

    pid: int
    number: int
    command: str
    waits: str

    def __str__(self) -> str:
        thread = f", thread {self.number}" if self.number != self.pid else ""
        where = f" in {self.waits}" if self.waits else ""
        return f"process {self.pid} ({self.command}{thread}) waits{where}"


@dataclass(slots=True)
class Rest:
    """Back-off after freezes that failed in a row for one reason.

    held: seconds that writers were frozen for them; earliest, until: moments (monotonic) before
    which none is tried: in any case, and while the reason lasts.
    """

    times: int = 0
    held: float = 0.0
    earliest: float = 0.0
    until: float = 0.0

    def failed(self, held_seconds: float) -> None:
        """Record a failure; after several in a row the back-off begins, which doubles each time."""
        self.times += 1
        self.held += held_seconds
        beyond = self.times - limits.FREEZE_ATTEMPTS_MAX
        if beyond >= 0:
            now, share = clock.monotonic(), self.held / limits.FREEZE_FRACTION_MAX
            longest = max(share, FREEZE_RETRY_SECONDS_MAX)
            self.earliest, self.until = (
                now + share,
                now + min(share * 2 ** min(beyond, 16), longest),
            )
            self.held = 0.0

    def left(self, *, lasts: bool) -> float:
        """Seconds until a freeze may be tried; `lasts`: whether the reason does."""
        return max(0.0, (self.until if lasts else self.earliest) - clock.monotonic())


@dataclass(slots=True)
class _Cgroup:
    """What is known of one cgroup: the tasks that did not freeze."""

    rest: Rest = field(default_factory=Rest)
    tasks: tuple[Task, ...] = ()


class Stuck:
    """Cgroups that did not freeze. Not thread-safe."""

    def __init__(self, proc_root: str = "/proc") -> None:
        self._proc_root = proc_root
        self._failed: dict[str, _Cgroup] = {}

    def check(self, directories: Iterable[str]) -> None:
        """Raises FreezeError when one of the cgroups is not to be frozen yet."""
        for directory in directories:
            failed = self._failed.get(directory)
            if failed is None or not failed.rest.left(lasts=True):
                continue
            if left := failed.rest.left(lasts=not failed.tasks or self._still(failed.tasks)):
                raise FreezeError(
                    f"{_cause(directory, failed.tasks)}, {failed.rest.times} times in a row; it is"
                    f" let alone for {left:.0f} s",
                    again=False,
                )

    def failed(self, directory: str, pids: Iterable[int], held_seconds: float) -> str:
        """Record that a cgroup of these processes did not freeze, and was partly frozen so long;
        returns a text that names the process.
        """
        failed = self._failed.setdefault(directory, _Cgroup())
        failed.rest.failed(held_seconds)
        failed.tasks = tuple(self._waiting(pids))
        self._drop()
        return _cause(directory, failed.tasks)

    def froze(self, directories: Iterable[str]) -> None:
        """Record that these cgroups froze."""
        for directory in directories:
            self._failed.pop(directory, None)

    def _drop(self) -> None:
        """Drop cgroups that are gone."""
        for directory in [d for d in self._failed if not os.path.isdir(d)]:
            del self._failed[directory]

    def _waiting(self, pids: Iterable[int]) -> list[Task]:
        """Some of the processes' threads in uninterruptible sleep.

        A thaw may wake them: they are read after enough time to fall asleep again.
        """
        pids, found = list(pids), []
        for _ in range(STUCK_LOOKS_MAX):
            clock.sleep(STUCK_LOOK_SECONDS)
            found = self._asleep(pids)
            if found and all(task.waits for task in found):
                break
        return found

    def _asleep(self, pids: Iterable[int]) -> list[Task]:
        found: list[Task] = []
        for pid, number in islice(self._threads(pids), STUCK_TASKS_LOOKED_MAX):
            base = f"{self._proc_root}/{pid}/task/{number}"
            if _state(base) == _WAITS:
                found.append(
                    Task(
                        pid,
                        number,
                        _read(f"{base}/comm").decode(errors="replace").rstrip("\n"),
                        _function(base),
                    )
                )
                if len(found) >= STUCK_TASKS_SHOWN_MAX:
                    break
        return found

    def _threads(self, pids: Iterable[int]) -> Iterator[tuple[int, int]]:
        for pid in pids:
            try:
                names = os.listdir(f"{self._proc_root}/{pid}/task")
            except OSError:
                continue  # it has ended, and hinders no freeze
            for name in names:
                yield pid, int(name)

    def _still(self, tasks: Sequence[Task]) -> bool:
        """Whether one of the threads still sleeps at the same place."""
        return any(
            _state(base) == _WAITS and _function(base) == task.waits
            for task in tasks
            for base in [f"{self._proc_root}/{task.pid}/task/{task.number}"]
        )


def _cause(directory: str, tasks: Sequence[Task]) -> str:
    who = f": {', '.join(map(str, tasks))}" if tasks else ""
    return f"cgroup {directory} did not freeze{who}"


def _state(base: str) -> str:
    """A thread's state, one letter; empty when it is gone. Its name may contain any bytes."""
    fields = _read(f"{base}/stat").rpartition(b")")[2].split()
    return fields[0].decode() if fields else ""


def _function(base: str) -> str:
    """The kernel function that a thread sleeps in; empty where the kernel does not show it."""
    name = _read(f"{base}/wchan").decode(errors="replace")
    return "" if name == "0" else name


def _read(path: str) -> bytes:
    """A small file of /proc; empty when its process is gone."""
    try:
        with open(path, "rb") as file:
            return file.read(_READ_BYTES)
    except OSError:
        return b""
