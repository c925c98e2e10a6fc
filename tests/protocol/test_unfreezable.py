"""A daemon whose container has a process that no freezer stops: who it is, is told everywhere."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from diffkeeper.volumes import volume
from tests.support.containers import Container
from tests.support.stuck import sleeping_deeply

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

SECONDS_MAX = 30
WRITES = "i=0; while :; do i=$((i+1)); echo $i > {}/file; sleep 0.02; done"


def status_until(daemon: Daemon, word: str) -> dict[str, Any]:
    """The volume's status as soon as its newest snapshot's cause has this word."""
    deadline = time.monotonic() + SECONDS_MAX
    while True:
        status = dict(daemon.ok("Get", Name="v")["Volume"]["Status"])
        if word in ((status["last_snapshot"] or {}).get("cause") or ""):
            return status
        assert time.monotonic() < deadline, status
        time.sleep(0.05)


def troubled(daemon: Daemon) -> str:
    """What the volume's status tells of fuzzy snapshots, as soon as it is a trouble."""
    deadline = time.monotonic() + SECONDS_MAX
    while True:
        found = daemon.ok("Get", Name="v")["Volume"]["Status"]["trouble"]
        if fuzzy := [text for text in found if text.startswith("every snapshot of ")]:
            return str(fuzzy[0])
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_who_does_not_freeze_is_told(daemon: Daemon, tmp_path: Path) -> None:
    daemon.ok("Create", Name="v", Opts={"interval": "100ms", "capture": "inotify"})
    point = Path(daemon.ok("Mount", Name="v", ID="m")["Mountpoint"])
    inside = tmp_path / "inside"
    with Container() as container, sleeping_deeply(tmp_path / "hangs") as stuck:
        container.start({point: inside}, WRITES.format(inside))
        (container.cgroup / "cgroup.procs").write_text(str(stuck.pid))
        named = f"process {stuck.pid} (mkdir) waits in "
        status = status_until(daemon, "times in a row; it is let alone for")
        assert named in status["last_snapshot"]["cause"]
        told = troubled(daemon)
        assert named in told
        # One of them is no trouble yet: the next ones may be of one instant again.
        assert int(told.removeprefix("every snapshot of ").split()[0]) >= volume.FUZZY_SECONDS_MAX
        assert "captures hold the writers for" in status["capture"]["delayed"]
        done = daemon.cli("doctor", "--json")
        health = [c for c in json.loads(done.stdout) if c["name"] == "health"]
        assert named in health[0]["found"]
