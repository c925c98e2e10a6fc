"""Restores into directories that refuse a part of what a volume has: a real bindfs."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from diffkeeper.fsio import tree
from diffkeeper.replay.object_source import StoreObjects
from diffkeeper.replay.refusals import Refusals
from diffkeeper.replay.replay import Replay, restore
from diffkeeper.snapshot.policy import CapturePolicy
from tests.support.capture_rig import CaptureRig
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse"),
    pytest.mark.skipif(shutil.which("bindfs") is None, reason="no bindfs"),
]
USER = 4321


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[CaptureRig]:
    """A rig whose volume has everything that a target may refuse."""
    with CaptureRig(tmp_path, CapturePolicy(source="scan")) as made:
        live = made.live
        (live / "a" / "b").mkdir(parents=True)
        (live / "a" / "b" / "content").write_bytes(b"content" * 10_000)
        (live / "program").write_bytes(b"#!/bin/sh\n")
        os.link(live / "program", live / "a" / "again")
        os.chown(live / "program", USER, USER)
        (live / "program").chmod(0o4755)
        (live / "link").symlink_to("program")
        os.mkfifo(live / "fifo")
        os.setxattr(live / "a", "user.note", b"x")
        os.setxattr(live / "program", "user.note", b"x")
        yield made


@contextlib.contextmanager
def share(rig: CaptureRig, *options: str) -> Iterator[Path]:
    """A directory that is seen through bindfs with these options."""
    real, seen = rig.base / "real", rig.base / "seen"
    real.mkdir()
    seen.mkdir()
    subprocess.run(["bindfs", *options, str(real), str(seen)], check=True)
    try:
        yield seen
    finally:
        subprocess.run(["umount", str(seen)], check=True)


def restored(rig: CaptureRig, target: Path, refusals: Refusals) -> None:
    fd = tree.open_without_links(str(target))
    try:
        root = rig.capture().root
        Replay(StoreObjects(rig.store), fd, refusals=refusals).run(root)
    finally:
        os.close(fd)


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


DENYING = ("--chown-deny", "--chgrp-deny", "--chmod-deny", "--xattr-none")


def test_a_share_that_refuses_owners_modes_and_attributes_gets_all_content(rig: CaptureRig) -> None:
    refusals = Refusals()
    with share(rig, *DENYING) as target:
        restored(rig, target, refusals)
        assert contents(target) == contents(rig.live)
        assert (target / "link").readlink() == (rig.live / "link").readlink()
        assert (target / "fifo").is_fifo()
    inodes = len(list(rig.live.rglob("*")))  # the directory itself, and one name less
    assert refusals.counts == {"owner": inodes, "mode": inodes - 1, "attribute": 2}
    assert not os.stat(rig.base / "real" / "program").st_mode & stat.S_ISUID
    told = {(each.path, each.what): each.problem for each in refusals.first}
    assert told["a", "attribute"].startswith("user.note: ")
    assert "not permitted" in told["program", "owner"]


def test_what_is_taken_without_being_done_is_told(rig: CaptureRig) -> None:
    refusals = Refusals()
    with share(rig, "--chown-ignore", "--chgrp-ignore", "--chmod-ignore") as target:
        restored(rig, target, refusals)
    assert refusals.counts["owner"] == 1
    assert [each.path for each in refusals.first if each.what == "owner"][0] in (
        "program", "a/again",
    )  # fmt: skip
    assert refusals.counts["mode"] > 3


def test_what_is_not_wanted_is_not_refused(rig: CaptureRig) -> None:
    refusals = Refusals(owner=False, xattrs=False)
    with share(rig, "--chown-deny", "--chgrp-deny", "--xattr-none") as target:
        restored(rig, target, refusals)
        assert contents(target) == contents(rig.live)
    assert refusals.counts == {}
    program = os.stat(rig.base / "real" / "program")
    assert (program.st_uid, stat.S_IMODE(program.st_mode)) == (0, 0o755), "no set-id for root"


def test_a_replay_for_a_mount_takes_no_refusal(rig: CaptureRig) -> None:
    root = rig.capture().root
    with share(rig, *DENYING) as target, pytest.raises(PermissionError):
        restore(root, StoreObjects(rig.store), str(target))


def test_a_target_that_takes_all_is_equal(rig: CaptureRig) -> None:
    refusals = Refusals()
    target = rig.base / "equal"
    target.mkdir()
    restored(rig, target, refusals)
    assert refusals.counts == {}
    assert difference(describe(rig.live), describe(target)) == []


def test_names_that_cannot_be_made_leave_out_only_themselves(
    rig: CaptureRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "refused")

    for act in ("link", "symlink", "mknod"):
        monkeypatch.setattr(os, act, refused)
    monkeypatch.setattr("diffkeeper.replay.refusals.REFUSALS_TOLD_MAX", 2)
    refusals = Refusals()
    target = rig.base / "target"
    target.mkdir()
    (target / "a").write_text("in the way")
    restored(rig, target, refusals)
    assert refusals.counts == {"symbolic link": 1, "FIFO": 1, "directory and all in it": 1}
    assert len(refusals.first) == 2
    shutil.rmtree(target)
    target.mkdir()
    again = Refusals()
    restored(rig, target, again)
    assert again.counts == {"symbolic link": 1, "FIFO": 1, "hard link": 1}
    assert contents(target) == contents(rig.live), "a second copy where no link can be made"


def test_a_full_disk_is_no_refusal(rig: CaptureRig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "symlink", full)
    target = rig.base / "target"
    target.mkdir()
    with pytest.raises(OSError, match="full"):
        restored(rig, target, Refusals())
