"""What is written for a restore reaches nothing else, whatever another user puts into the way."""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from diffkeeper.errors import ConflictError
from diffkeeper.fsio import tree
from diffkeeper.replay.object_source import StoreObjects
from diffkeeper.replay.replay import restore
from diffkeeper.snapshot.policy import CapturePolicy
from tests.support.capture_rig import CaptureRig
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from diffkeeper.format.records import SnapshotRecord

USER = 4321


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[CaptureRig]:
    with CaptureRig(tmp_path, CapturePolicy(source="scan")) as made:
        yield made


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file outside that must keep owner, mode and attributes."""
    found = tmp_path / "victim"
    found.write_text("secret")
    found.chmod(0o600)
    return found


def replay(rig: CaptureRig, snapshot: SnapshotRecord, target: Path) -> None:
    restore(snapshot.root, StoreObjects(rig.store), str(target))


def bind_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path)


# A link in the place of a link is its owner's own affair.
CASES = [(kind, put) for kind in ("fifo", "socket", "device") for put in ("link", "hard link")]
CASES.append(("symlink", "hard link"))


@pytest.mark.parametrize(("kind", "put"), CASES)
def test_what_replaces_a_new_name_keeps_its_owner_and_mode(
    rig: CaptureRig, victim: Path, monkeypatch: pytest.MonkeyPatch, kind: str, put: str
) -> None:
    makers: dict[str, Callable[[Path], object]] = {
        "fifo": os.mkfifo,
        "socket": lambda path: bind_socket(str(path)),
        "device": lambda path: os.mknod(path, stat.S_IFCHR, os.makedev(1, 3)),
        "symlink": lambda path: path.symlink_to("nowhere"),
    }
    made = rig.live / "x"
    makers[kind](made)
    os.chown(made, USER, USER, follow_symlinks=False)
    os.setxattr(made, "trusted.note", b"x", follow_symlinks=False)
    if kind != "symlink":
        made.chmod(0o666)
    snapshot = rig.capture()
    target = rig.base / "target"
    target.mkdir()
    before = os.lstat(victim)

    act = "symlink" if kind == "symlink" else "mknod"
    real, put_there = getattr(os, act), os.symlink if put == "link" else os.link

    def acts(*arguments: object, **named: object) -> None:
        real(*arguments, **named)
        (target / "x").unlink()
        put_there(victim, target / "x")

    monkeypatch.setattr(os, act, acts)
    with pytest.raises(ConflictError, match="replaced"):
        replay(rig, snapshot, target)
    after = os.lstat(victim)
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)
    assert os.listxattr(victim) == []


def test_special_files_and_links_come_back_with_all_that_they_have(rig: CaptureRig) -> None:
    os.mkfifo(rig.live / "fifo", 0o640)
    bind_socket(str(rig.live / "socket"))
    (rig.live / "link").symlink_to("nowhere")
    os.mknod(rig.live / "device", stat.S_IFBLK | 0o604, os.makedev(7, 9))
    for path in rig.live.iterdir():
        os.chown(path, USER, USER + 1, follow_symlinks=False)
        os.setxattr(path, "trusted.note", path.name.encode(), follow_symlinks=False)
        os.utime(path, ns=(1, 1_234_567_890_123_456_789), follow_symlinks=False)
    restored = rig.replay(rig.capture(), "restored")
    assert difference(describe(rig.live), describe(restored)) == []


def test_a_link_in_the_place_of_the_target_is_not_followed(rig: CaptureRig) -> None:
    (rig.live / "a").write_text("x")
    snapshot = rig.capture()
    elsewhere = rig.base / "elsewhere"
    elsewhere.mkdir()
    (rig.base / "target").symlink_to(elsewhere)
    with pytest.raises(NotADirectoryError):
        replay(rig, snapshot, rig.base / "target")
    assert list(elsewhere.iterdir()) == []


def test_links_on_the_way_are_followed_for_those_who_may_choose(tmp_path: Path) -> None:
    (tmp_path / "real" / "below").mkdir(parents=True)
    (tmp_path / "mine").symlink_to("real")
    (tmp_path / "absolute").symlink_to(tmp_path / "mine")
    wanted = os.stat(tmp_path / "real" / "below").st_ino
    for way in ("real", "mine", "absolute", "./mine/../absolute"):
        fd = tree.open_trusted(f"{tmp_path}/{way}/below")
        assert os.fstat(fd).st_ino == wanted
        os.close(fd)
    os.chown(tmp_path / "mine", USER, USER, follow_symlinks=False)
    for way in ("mine", "absolute"):
        with pytest.raises(PermissionError, match="another user's"):
            tree.open_trusted(f"{tmp_path}/{way}/below")
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(OSError, match="Too many levels"):
        tree.open_trusted(str(tmp_path / "round"))
