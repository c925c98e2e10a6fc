"""The daemon is killed between drain and commit of a busy volume: the next one has it all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper.format.ids import Root
from diffkeeper.replay.object_source import StoreObjects
from diffkeeper.replay.replay import restore
from diffkeeper.store.store import Store
from tests.support import torture
from tests.support.daemon import Daemon
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from collections.abc import Iterator

POINTS = (
    "capture.drained",
    "capture.precopied",
    "capture.frozen",
    "capture.thawed",
    "capture.before_commit",
)
PASSES = 3  # of the failpoint until it kills: the first capture compares everything anyway
DEATH_SECONDS_MAX = 60.0
SEED = os.environ.get("TORTURE_SEED", "1")

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0 or not torture.CGROUPS, reason="needs root and a cgroup freezer"
    ),
    pytest.mark.timeout(600),
    pytest.mark.slow,
]


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """In a short path, since a socket's path is bounded."""
    made = Daemon(Path(tempfile.mkdtemp(prefix="dk-")))
    made.start()
    yield made
    made.clean()


def churn(daemon: Daemon, live: Path, seed: str) -> list[str]:
    """The command line of the program that keeps the volume busy."""
    records = daemon.base / "records"
    records.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.support.churn", str(live), seed]
    return [*command, "--outside", str(daemon.base / "outside"), "--records", str(records)]


def killed(daemon: Daemon, point: str) -> None:
    """A daemon that kills itself at the failpoint, and one that follows it."""
    if daemon.process is not None:
        daemon.stop(signal.SIGKILL)
    process = daemon.process = daemon.spawn("--failpoints", f"{point}=kill:{PASSES}")
    assert process.wait(DEATH_SECONDS_MAX) == -signal.SIGKILL, daemon.log
    time.sleep(0.1)
    daemon.start()


def check(daemon: Daemon, live: Path, where: str) -> None:
    """Nobody writes: the newest snapshot is what is on disk."""
    daemon.admin("POST", "/v1/volumes/v/snapshots", {}, status=201)
    root = daemon.admin("GET", "/v1/volumes/v/snapshots")[-1]["root"]
    daemon.stop()
    replayed, copy = daemon.base / "replayed", daemon.base / "copy"
    replayed.mkdir()
    store = Store.open(str(daemon.state_dir / "store"), reserve_bytes=0)
    restore(Root.fromhex(root), StoreObjects(store), str(replayed))
    store.close()
    subprocess.run(["cp", "-a", str(live), str(copy)], check=True)
    wrong = difference(describe(copy), describe(replayed))
    assert not wrong, f"{where}: {wrong[:5]}"
    subprocess.run(["rm", "-rf", str(replayed), str(copy)], check=True)


@pytest.mark.parametrize("source", ["ebpf", "inotify"])
def test_killed_between_drain_and_commit(source: str, daemon: Daemon) -> None:
    """At each point, while programs write on; and what they wrote meanwhile is there, too."""
    daemon.ok("Create", Name="v", Opts={"interval": "200ms", "capture": source})
    daemon.ok("Mount", Name="v", ID="m")
    view = daemon.admin("GET", "/v1/volumes/v")
    live = Path(view["status"]["live"])
    for number, point in enumerate(POINTS):
        where = f"{source}, seed {SEED}, killed at {point}"
        command = churn(daemon, live, f"{SEED}/{point}")
        with torture.writers(live, command, daemon.base / f"output{number}") as child:
            killed(daemon, point)
            time.sleep(0.5)
            assert child.poll() is None, (daemon.base / f"output{number}").read_text()
        check(daemon, live, where)
