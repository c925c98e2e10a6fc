"""kill -9 at each step of a repair: what is not repaired yet is still found damaged."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from diffkeeper.errors import UnavailableError
from tests.support import bitrot, disks
from tests.support.bitrot import MIB, Files, filled, image, live, parsed
from tests.support.daemon import Daemon, unmount_below
from tests.support.killed import REPAIR

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
CHUNK = 16 << 10


@dataclass
class Rotting:
    """A daemon with a volume whose files rot again and again."""

    daemon: Daemon
    files: Files
    root: str

    def rot(self) -> Files:
        """Damage two files; what they hold then."""
        where = live(self.daemon)
        for offset in (40_000, MIB, 2 * MIB + 100):
            bitrot.rot(image(self.daemon), where / "a", offset)
        bitrot.rot(image(self.daemon), where / "d/c", 20_000)
        return {name: (where / name).read_bytes() for name in self.files}


@pytest.fixture(scope="module")
def rotting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rotting]:
    base = tmp_path_factory.mktemp("rotting")
    with disks.file_system("ext4", base, 256 * MIB) as mount:
        subprocess.run(["mount", "-o", "remount,noatime", mount], check=True)
        daemon = Daemon(mount)
        daemon.start()
        try:
            files = filled(daemon, capture="inotify")
            yield Rotting(daemon, files, parsed(daemon, "snapshots", "v")[-1]["root"])
        finally:
            for process in daemon.spawned:
                process.kill()
                process.wait(60)
            unmount_below(mount)


@pytest.mark.parametrize("point", REPAIR)
def test_killed_at(point: str, rotting: Rotting) -> None:
    daemon, files = rotting.daemon, rotting.files
    rotten = rotting.rot()
    tags = set(parsed(daemon, "inspect", "v")["status"]["tags"])
    daemon.stop()
    daemon.start("--failpoints", point)
    ended = daemon.cli("repair", "v", "--yes")
    assert ended.returncode == UnavailableError.exit_code, ended.stderr
    assert daemon.process is not None
    assert daemon.process.wait(30) == -signal.SIGKILL, f"{point} was never passed"
    daemon.start()
    # Every chunk is as it was or as it should be, and what is not right is still told.
    shown = {name: (live(daemon) / name).read_bytes() for name in files}
    for name, found in shown.items():
        for at in range(0, len(found), CHUNK):
            allowed = (rotten[name][at : at + CHUNK], files[name][at : at + CHUNK])
            assert found[at : at + CHUNK] in allowed, (name, at)
    wrong = {name for name in files if shown[name] != files[name]}
    report = parsed(daemon, "verify", "v", code=12 if wrong else 0)
    assert {fault["path"] for fault in report["faults"]} == wrong
    assert all(fault["damaged"] for fault in report["faults"])
    assert bool(report["repair"]) == bool(wrong)
    assert report["root"] == rotting.root, "what a repair left was captured as written"
    assert not (live(daemon).parent / "repair").exists()
    # What was on disk before is kept, or nothing was changed.
    kept = sorted(set(parsed(daemon, "inspect", "v")["status"]["tags"]) - tags)
    assert kept or shown == rotten
    if kept:
        target = daemon.base / f"kept-{kept[0]}"
        parsed(daemon, "restore", f"v@{kept[0]}", "--to", str(target))
        assert {name: (target / name).read_bytes() for name in files} == rotten
    # Another one does the rest.
    done = parsed(daemon, "repair", "v", "--yes")
    assert {each["path"] for each in done["files"]} == wrong
    assert parsed(daemon, "verify", "v")["ok"] is True
    assert {name: (live(daemon) / name).read_bytes() for name in files} == files
    assert (live(daemon) / "d/c").stat().st_mode & 0o7777 == 0o4750
    assert os.getxattr(live(daemon) / "d/c", "user.mine") == b"x"
    assert os.getxattr(live(daemon) / "d/c", "security.capability") == bitrot.CAPABILITY
    assert parsed(daemon, "snapshot", "v")["root"] == rotting.root
