"""Maintenance of a real daemon, by command and by itself."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

STATES = 6


def parsed(daemon: Daemon, *arguments: str) -> Any:
    ended = daemon.cli(*arguments, "--json")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def filled(daemon: Daemon) -> dict[int, bytes]:
    """A volume whose one file changes a little from snapshot to snapshot; content by seq."""
    daemon.ok("Create", Name="v", Opts={"interval": "1h", "retention": "all"})
    source = random.Random(2)
    content = bytearray(source.randbytes(1 << 20))
    daemon.live("v", {"f": bytes(content)})
    live = Path(daemon.ok("Path", Name="v")["Mountpoint"])
    found: dict[int, bytes] = {}
    for _ in range(STATES):
        for _ in range(20):
            content[source.randrange(len(content))] ^= 1
        (live / "f").write_bytes(content)
        found[parsed(daemon, "snapshot", "v")["seq"]] = bytes(content)
    return found


def test_maintain_and_compact(daemon: Daemon) -> None:
    kept = filled(daemon)
    before = parsed(daemon, "stats")
    report = parsed(daemon, "maintain", "--now")
    assert report["deltas"] > STATES
    assert report["damage"] == []
    assert report["wait_ms_max"] < 50
    assert parsed(daemon, "maintain")["versions"] == 0
    sizes = parsed(daemon, "compact")
    after = parsed(daemon, "stats")
    assert sizes["store_file_bytes"] == after["store_file_bytes"] < before["store_file_bytes"]
    assert after["store_used_bytes"] < 0.5 * before["store_used_bytes"]
    assert after["unique_bytes"] == before["unique_bytes"]
    for seq, content in kept.items():
        target = str(daemon.base / f"restored-{seq}")
        parsed(daemon, "restore", f"v@{seq}", "--to", target)
        assert Path(target, "f").read_bytes() == content
        assert parsed(daemon, "verify", f"v@{seq}")["ok"] is True
    daemon.stop()
    daemon.start()
    assert parsed(daemon, "verify", "v@2")["ok"] is True


def test_what_was_forgotten_gives_room(daemon: Daemon) -> None:
    kept = filled(daemon)
    live = Path(daemon.ok("Path", Name="v")["Mountpoint"])
    (live / "g").write_bytes(os.urandom(3 << 20))
    with_g = parsed(daemon, "snapshot", "v")["seq"]
    (live / "g").unlink()
    parsed(daemon, "snapshot", "v")
    before = parsed(daemon, "stats")
    parsed(daemon, "forget", *(f"v@{seq}" for seq in (*kept, with_g)))
    report = parsed(daemon, "maintain")
    assert report["collected"] == 1
    after = parsed(daemon, "stats")
    assert after["store_used_bytes"] < before["store_used_bytes"] - (3 << 20)
    assert parsed(daemon, "verify", "v")["ok"] is True


def test_a_person_reads_it(daemon: Daemon) -> None:
    for command in ("maintain", "compact"):
        ended = daemon.cli(command)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.strip()
    assert daemon.admin("POST", "/v1/maintain", {"now": 1}, 400)
