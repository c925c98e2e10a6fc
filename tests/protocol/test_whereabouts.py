"""A store whose disk is not mounted is missed: no empty one begins in its place."""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from diffkeeper.errors import StoreMissingError
from diffkeeper.service import store_notes
from tests.support import disks
from tests.support.daemon import Daemon, unmount_below

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
            assert "move" not in told, "what is said of damaged stores is of no use here"
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
            store_notes.leave(state, f"{state}/mounts")
            assert (tmp_path / ".diffkeeper-store-disk").read_text() == state
            with pytest.raises(StoreMissingError, match="there is no store"):
                store_notes.refuse_missing(state, f"{state}/mounts", "/proc")


@pytest.mark.parametrize("lost", ["mounts", ".diffkeeper-store-disk"])
def test_either_of_two_notes_does(tmp_path: Path, lost: str) -> None:
    """A mount directory in memory is gone after a reboot, a plugin's root with an upgrade."""
    with disks.file_system("ext4", tmp_path) as disk:
        mounts = tmp_path / "mounts"
        mounts.mkdir()
        store_notes.leave(str(disk), str(mounts))
        assert (mounts / ".diffkeeper-store").read_text() == str(disk)
        victim = tmp_path / lost
        shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
        with pytest.raises(StoreMissingError, match="there is no store"):
            store_notes.refuse_missing(str(disk), str(mounts), "/proc")


@pytest.mark.parametrize(
    "made", ["store/", "volumes/", "store", "volumes", "volumes/lost+found/", "store/notes.txt"]
)
def test_what_only_has_the_name_is_no_store(tmp_path: Path, made: str) -> None:
    with disks.file_system("ext4", tmp_path) as disk:
        store_notes.leave(str(disk), str(disk / "mounts"))
        if made.endswith("/"):
            (disk / made).mkdir(parents=True)
        else:
            (disk / made).parent.mkdir(exist_ok=True)
            (disk / made).touch()
        with pytest.raises(StoreMissingError, match="there is no store"):
            store_notes.refuse_missing(str(disk), str(disk / "mounts"), "/proc")


def test_an_older_store_beneath_the_disk(new_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """It was copied to the disk, left where it was, and is out of date: no volume of it is used."""
    state = tmp_path / "disk"
    daemon = new_daemon("--state-dir", str(state))
    state.mkdir()
    daemon.start()
    daemon.ok("Create", Name="v")
    daemon.stop()
    beneath = tmp_path / "beneath"
    state.rename(beneath)
    with disks.file_system("ext4", tmp_path) as disk:
        subprocess.run(["cp", "-a", f"{beneath}/.", str(disk)], check=True)
        daemon.start()
        daemon.ok("Create", Name="younger")
        daemon.stop()
        subprocess.run(["umount", str(disk)], check=True)
        try:
            subprocess.run(["cp", "-a", f"{beneath}/.", str(state)], check=True)
            note = tmp_path / ".diffkeeper-store-disk"
            told = refused(daemon)
            assert "is an older one" in told
            assert f"delete {note}" in told
            note.unlink()
            daemon.start()
            assert [volume["Name"] for volume in daemon.ok("List")["Volumes"]] == ["v"]
            daemon.stop()
        finally:
            image = str(tmp_path / "image")
            subprocess.run(["mount", "-o", "loop", image, str(disk)], check=True)


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
