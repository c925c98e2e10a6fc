"""Programs change a volume in every way while it is captured; each snapshot must be one instant.

The truth is a copy of the directory made inside the very freeze that the snapshot was taken in, and
compared entry by entry and byte by byte. The seed is printed with every difference.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper.engine.snapshotter import Policy
from tests.support import churn
from tests.support.harness import Engine
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diffkeeper.freeze.freezer import Freezer, Frozen

SNAPSHOTS = int(os.environ.get("TORTURE_SNAPSHOTS", "25"))
SEED = int(os.environ.get("TORTURE_SEED", "1"))
# Long enough for the copy of the truth inside the freeze.
FREEZE_SECONDS = 5.0


class CopyingFreezer:
    """The real freezer; before each thaw it copies the live directory."""

    def __init__(self, real: Freezer, live: Path, copy: Path) -> None:
        self._real = real
        self._live = live
        self.copy = copy
        self.copied = False

    @contextlib.contextmanager
    def frozen(self, cgroups: Sequence[str], limit_seconds: float) -> Iterator[Frozen]:
        """As the real one."""
        with self._real.frozen(cgroups, limit_seconds) as frozen:
            yield frozen
            subprocess.run(["rm", "-rf", str(self.copy)], check=True)
            subprocess.run(["cp", "-a", str(self._live), str(self.copy)], check=True)
            self.copied = True


@contextlib.contextmanager
def writers(live: Path, seed: int, processes: int) -> Iterator[None]:
    """Processes of a mount namespace and a cgroup of their own that change `live` all the time."""
    mount = live.parent / "mount"
    mount.mkdir()
    cgroup = Path(f"/sys/fs/cgroup/freezer/diffkeeper-torture-{os.getpid()}")
    cgroup.mkdir()
    script = (
        f"echo $$ > {cgroup}/cgroup.procs && mount --bind {live} {mount}"
        f" && exec {sys.executable} {churn.__file__} {mount} {seed} {processes}"
    )
    child = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sh", "-c", script])
    try:
        yield
    finally:
        child.kill()
        child.wait()
        deadline = time.monotonic() + 10
        while pids := (cgroup / "cgroup.procs").read_text().split():
            assert time.monotonic() < deadline
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.02)
        cgroup.rmdir()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    not os.path.isdir("/sys/fs/cgroup/freezer"), reason="needs the cgroup v1 freezer hierarchy"
)
@pytest.mark.parametrize("source", ["ebpf", "inotify", "scan"])
def test_every_snapshot_is_one_instant(source: str, tmp_path: Path) -> None:
    """Entry by entry and byte by byte what was on disk in the freeze."""
    policy = Policy(source=source, freeze_seconds_max=FREEZE_SECONDS)
    with Engine(tmp_path, policy) as engine:
        if engine.snapshotter.source_name != source:
            pytest.skip(engine.snapshotter.source_reason)
        freezer = CopyingFreezer(engine.tools.freezer, engine.live, tmp_path / "copy")
        engine.tools.freezer = freezer  # type: ignore[assignment]  # the real one inside
        compared = 0
        with writers(engine.live, SEED, 2):
            deadline = time.monotonic() + 300
            while compared < SNAPSHOTS:
                assert time.monotonic() < deadline, f"{compared} snapshots compared in time"
                freezer.copied = False
                snapshot = engine.snapshotter.capture("interval", engine.writers())
                if snapshot is None or not freezer.copied:
                    time.sleep(0.05)
                    continue
                assert snapshot.consistency == "crash", snapshot.cause
                replayed = engine.replay(snapshot, "replay")
                wrong = difference(describe(freezer.copy), describe(replayed))
                assert not wrong, f"seed {SEED}, snapshot {snapshot.seq}: {wrong[:5]}"
                subprocess.run(["rm", "-rf", str(replayed)], check=True)
                compared += 1
        print(f"{source}: {compared} snapshots compared, seed {SEED}")
