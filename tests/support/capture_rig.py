"""A store and one captured volume on real directories, without the daemon around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from diffkeeper.format.records import SnapshotRecord, VolumeRecord
from diffkeeper.freeze.freezer import Freezer
from diffkeeper.freeze.writers import Survey, Writers
from diffkeeper.replay.object_source import StoreObjects
from diffkeeper.replay.replay import Replayed, restore
from diffkeeper.snapshot import group_capture
from diffkeeper.snapshot.chunker import Chunker
from diffkeeper.snapshot.context import CaptureContext
from diffkeeper.snapshot.policy import CapturePolicy
from diffkeeper.snapshot.volume_state import VolumeState
from diffkeeper.snapshot.watched_volume import WatchedVolume
from diffkeeper.sources.ebpf.probe import Sources
from diffkeeper.store.store import Batch, Store

if TYPE_CHECKING:
    from pathlib import Path

CGROUP_ROOT = "/sys/fs/cgroup"


class CaptureRig:
    """A store and one captured volume in `base`; the live directory is in it, too, or anywhere."""

    def __init__(
        self,
        base: Path,
        policy: CapturePolicy | None = None,
        sources: Sources | None = None,
        live: Path | None = None,
    ) -> None:
        self.base = base
        self.live = live or base / "live"
        self.live.mkdir(exist_ok=True)
        self.policy = policy or CapturePolicy(source="inotify")
        self.store = Store.open(str(base / "store"), reserve_bytes=0)
        self.freezer = Freezer(CGROUP_ROOT, str(base / "freeze.journal"))
        self.freezer.start()
        self.reader = Chunker()
        self.survey = Survey()
        self.context = CaptureContext(
            self.store, self.freezer, self.reader, CGROUP_ROOT, "/proc", sources or Sources()
        )
        records = self.store.volumes()
        if not records:
            record = VolumeRecord(id=self.store.next_volume_id(), name="v", created_ns=1)
            self.store.commit(Batch(volumes=[record]))
            records = [record]
        self.state = VolumeState(self.store, records[0])
        self.watched = WatchedVolume(self.context, self.state, str(self.live), self.policy)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release everything; a second rig may open the same base afterwards."""
        self.watched.close()
        self.reader.close()
        self.freezer.stop()
        self.store.close()

    def writers(self) -> Writers:
        """Who has the live directory mounted."""
        target = self.watched.target
        return self.survey.find([target])[target]

    def capture(self, reason: str = "manual") -> SnapshotRecord:
        """Capture; the newest snapshot, whether it was just taken or still holds."""
        self.capture_of(reason, self.writers())
        assert self.state.head is not None
        return self.state.head

    def capture_of(self, reason: str, writers: Writers) -> SnapshotRecord | None:
        """Capture beside these writers; the snapshot that was taken."""
        return group_capture.capture([group_capture.GroupVolume(self.watched, writers)], reason)[0]

    def replay(self, snapshot: SnapshotRecord, name: str) -> Path:
        """Replay a snapshot into a new directory below the base."""
        target = self.base / name
        target.mkdir()
        self.replayed: Replayed = restore(snapshot.root, StoreObjects(self.store), str(target))
        return target
