"""Several volumes that the same processes have mounted, with and without the daemon around them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from diffkeeper.capture.probe import Sources
from diffkeeper.engine import group
from diffkeeper.engine.content import Reader
from diffkeeper.engine.objects import StoreObjects
from diffkeeper.engine.replay import restore
from diffkeeper.engine.snapshotter import Policy, Snapshotter, Tools
from diffkeeper.engine.volume import VolumeState
from diffkeeper.format.records import SnapshotRecord, VolumeRecord
from diffkeeper.freeze.cgroups import Hierarchy
from diffkeeper.freeze.freezer import Freezer
from diffkeeper.freeze.writers import Survey
from diffkeeper.store.store import Batch, Store

if TYPE_CHECKING:
    from collections.abc import Sequence

CGROUP_ROOT = "/sys/fs/cgroup"

# Two files of one volume would tell nothing: the counter spans two. It is written first to one and
# then to the other, so that at no instant the first one is behind or more than one ahead.
COUNTER = """
import os, sys
first, second = (os.open(p, os.O_RDWR | os.O_CREAT, 0o644) for p in sys.argv[1:3])
number = 0
while True:
    number += 1
    for fd in (first, second):
        os.pwrite(fd, b"%020d" % number, 0)
"""


def counted(directory: Path, name: str) -> int:
    """What a counter has come to; 0 before its first number."""
    path = directory / name
    return int(path.read_bytes() or b"0") if path.exists() else 0


def check_counter(first: Path, second: Path, name: str) -> int:
    """The two parts belong to one instant; returns the number."""
    before, after = counted(first, name), counted(second, name)
    assert after in (before, before - 1), f"{name}: {before} in the first, {after} in the second"
    return before


class Volumes:
    """An engine with several volumes: `base/NAME` is the live directory of each."""

    def __init__(self, base: Path, names: Sequence[str], policy: Policy) -> None:
        self.base = base
        self.store = Store.open(str(base / "store"), reserve_bytes=0)
        freezer = Freezer(CGROUP_ROOT, str(base / "freeze.journal"))
        freezer.start()
        self.tools = Tools(self.store, freezer, Reader(), CGROUP_ROOT, "/proc", Sources())
        self.survey = Survey()
        self.live = {name: base / name for name in names}
        self.snapshotters = {name: self._open(name, policy) for name in names}

    def _open(self, name: str, policy: Policy) -> Snapshotter:
        self.live[name].mkdir(exist_ok=True)
        record = VolumeRecord(id=self.store.next_volume_id(), name=name, created_ns=1)
        self.store.commit(Batch(volumes=[record]))
        return Snapshotter(
            self.tools, VolumeState(self.store, record), str(self.live[name]), policy
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for snapshotter in self.snapshotters.values():
            snapshotter.close()
        self.tools.sources.close()
        self.tools.reader.close()
        self.tools.freezer.stop()
        self.store.close()

    def members(self) -> list[group.Member]:
        """All of them with their writers, the last one first."""
        targets = [s.target for s in self.snapshotters.values()]
        found = self.survey.find(targets)
        members = [group.Member(s, found[s.target]) for s in self.snapshotters.values()]
        return members[::-1]

    def capture(self) -> dict[str, SnapshotRecord]:
        """One capture of all; the new snapshots by the volume's name."""
        members = self.members()
        taken = group.capture(members, "manual")
        pairs = zip(members, taken, strict=True)
        return {m.snapshotter.volume: record for m, record in pairs if record is not None}

    def replay(self, record: SnapshotRecord, target: Path) -> Path:
        """A snapshot in a new directory."""
        target.mkdir(parents=True)
        restore(bytes.fromhex(record.root), StoreObjects(self.store), str(target))
        return target


class Container:
    """Processes in a cgroup and a mount namespace of their own, with directories mounted."""

    _count = 0

    def __init__(self) -> None:
        hierarchy = Hierarchy(CGROUP_ROOT)
        top = hierarchy.v1 or hierarchy.v2
        assert top, "no cgroup freezer is mounted here"
        Container._count += 1
        self.cgroup = Path(top, f"diffkeeper-spanning-{os.getpid()}-{Container._count}")
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, mounts: dict[Path, Path], script: str) -> None:
        """Mount what is to be seen at the places that are the values, then run a shell script."""
        self.cgroup.mkdir()
        lines = [f"echo $$ > {self.cgroup}/cgroup.procs"]
        for source, place in mounts.items():
            place.mkdir(exist_ok=True, parents=True)
            lines.append(f"mount --bind {source} {place}")
        lines += ["echo", script]
        command = ["unshare", "-m", "--propagation", "private", "sh", "-ec", "\n".join(lines)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.read(1) == b"\n"

    def stop(self) -> None:
        """kill -9 of all of them, also from within a freeze that was left behind."""
        if self.process is None:
            return
        deadline = time.monotonic() + 10
        while pids := (self.cgroup / "cgroup.procs").read_text().split():
            assert time.monotonic() < deadline, "the processes do not end"
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
            time.sleep(0.02)
        self.process.communicate(timeout=20)
        self.process = None
        while self.cgroup.exists():
            assert time.monotonic() < deadline, "the cgroup does not end"
            with contextlib.suppress(OSError):
                self.cgroup.rmdir()


def counter(first: Path, second: Path) -> str:
    """A shell command that counts in two files."""
    return f"{sys.executable} -c '{COUNTER}' {first} {second}"
