"""Several volumes that the same processes have mounted, with and without the daemon around them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self

from diffkeeper.format.records import SnapshotRecord, VolumeRecord
from diffkeeper.freeze.freezer import Freezer
from diffkeeper.freeze.writers import Survey
from diffkeeper.replay.object_source import StoreObjects
from diffkeeper.replay.replay import restore
from diffkeeper.snapshot import group_capture
from diffkeeper.snapshot.chunker import Chunker
from diffkeeper.snapshot.context import CaptureContext
from diffkeeper.snapshot.volume_state import VolumeState
from diffkeeper.snapshot.watched_volume import WatchedVolume
from diffkeeper.sources.ebpf.probe import Sources
from diffkeeper.store.store import Batch, Store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from diffkeeper.snapshot.policy import CapturePolicy

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


class GroupRig:
    """A store and several captured volumes: `base/NAME` is the live directory of each."""

    def __init__(self, base: Path, names: Sequence[str], policy: CapturePolicy) -> None:
        self.base = base
        self.store = Store.open(str(base / "store"), reserve_bytes=0)
        freezer = Freezer(CGROUP_ROOT, str(base / "freeze.journal"))
        freezer.start()
        self.context = CaptureContext(
            self.store, freezer, Chunker(), CGROUP_ROOT, "/proc", Sources()
        )
        self.survey = Survey()
        self.live = {name: base / name for name in names}
        self.watched = {name: self._open(name, policy) for name in names}

    def _open(self, name: str, policy: CapturePolicy) -> WatchedVolume:
        self.live[name].mkdir(exist_ok=True)
        record = VolumeRecord(id=self.store.next_volume_id(), name=name, created_ns=1)
        self.store.commit(Batch(volumes=[record]))
        return WatchedVolume(
            self.context, VolumeState(self.store, record), str(self.live[name]), policy
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for watched in self.watched.values():
            watched.close()
        self.context.sources.close()
        self.context.reader.close()
        self.context.freezer.stop()
        self.store.close()

    def members(self) -> list[group_capture.GroupVolume]:
        """All of them with their writers, the last one first."""
        targets = [s.target for s in self.watched.values()]
        found = self.survey.find(targets)
        members = [group_capture.GroupVolume(s, found[s.target]) for s in self.watched.values()]
        return members[::-1]

    def capture(self) -> dict[str, SnapshotRecord]:
        """One capture of all; the new snapshots by the volume's name."""
        members = self.members()
        taken = group_capture.capture(members, "manual")
        pairs = zip(members, taken, strict=True)
        return {m.watched.volume: record for m, record in pairs if record is not None}

    def replay(self, record: SnapshotRecord, target: Path) -> Path:
        """A snapshot in a new directory."""
        target.mkdir(parents=True)
        restore(record.root, StoreObjects(self.store), str(target))
        return target


def counter(first: Path, second: Path) -> str:
    """A shell command that counts in two files."""
    return f"{sys.executable} -c '{COUNTER}' {first} {second}"
