"""A store whose disk is not mounted is missed: no empty one begins in its place."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from diffkeeper.errors import CorruptionError
from diffkeeper.volumes import whereabouts
from tests.protocol.conftest import Daemon, unmount_below
from tests.support import disks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def refused(daemon: Daemon) -> str:
    """The reason for which the running daemon has no store."""
    process = daemon.spawn()
    deadline = time.monotonic() + 30
    while "store_refused" not in daemon.log and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, daemon.log
    with pytest.raises(OSError):  # no answer at all: an error would have the engine forget it
        daemon.call("Get", Name="v")
    answer = daemon.call("Create", Name="v")
    assert answer.status == 500
    process.terminate()
    assert process.wait(30) == 0
    return answer.err


@pytest.mark.parametrize("below", ["", "deeper/state"])
def test_a_disk_that_is_not_mounted(
    new_daemon: Callable[..., Daemon], tmp_path: Path, below: str
) -> None:
    with disks.file_system("ext4", tmp_path) as disk:
        state = disk / below
        state.mkdir(parents=True, exist_ok=True)
        daemon = new_daemon("--state-dir", str(state), "--mount-dir", str(state / "mounts"))
        daemon.start()
        daemon.ok("Create", Name="v")
        daemon.stop()
        unmount_below(disk)
        subprocess.run(["umount", str(disk)], check=True)
        try:
            state.mkdir(parents=True, exist_ok=True)
            told = refused(daemon)
            note = tmp_path / ".diffkeeper-store-disk"
            assert f"there is no store in {state}" in told
            assert f"To begin a new store, delete {note}" in told
            assert not (state / "store").exists()
        finally:
            image = str(tmp_path / "image")
            subprocess.run(["mount", "-o", "loop", image, str(disk)], check=True)
        daemon.start()
        assert [volume["Name"] for volume in daemon.ok("List")["Volumes"]] == ["v"]
        daemon.stop()


def test_a_link_to_the_disk_and_a_path_with_two_slashes(tmp_path: Path) -> None:
    with disks.file_system("ext4", tmp_path) as disk:
        link = tmp_path / "link"
        link.symlink_to(disk)
        for state in (str(link), f"/{disk}"):
            whereabouts.leave(state, f"{state}/mounts")
            assert (tmp_path / ".diffkeeper-store-disk").read_text() == state
            with pytest.raises(CorruptionError, match="there is no store"):
                whereabouts.refuse_missing(state, f"{state}/mounts")


def test_a_new_store_on_purpose(new_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """What the documents say of a damaged store goes on: it is moved away, and a new one begins."""
    with disks.file_system("ext4", tmp_path) as disk:
        daemon = new_daemon("--state-dir", str(disk), "--mount-dir", str(disk / "mounts"))
        daemon.start()
        daemon.ok("Create", Name="v")
        daemon.stop()
        (disk / "store").rename(disk / "store.damaged")
        daemon.start()
        assert daemon.ok("List")["Volumes"] == []
        daemon.stop()
        unmount_below(disk)
