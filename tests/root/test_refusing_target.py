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
from diffkeeper.snapshot.context import CapturePolicy
from tests.support.harness import Engine
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
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine whose volume has everything that a target may refuse."""
    with Engine(tmp_path, CapturePolicy(source="scan")) as made:
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
def share(engine: Engine, *options: str) -> Iterator[Path]:
    """A directory that is seen through bindfs with these options."""
    real, seen = engine.base / "real", engine.base / "seen"
    real.mkdir()
    seen.mkdir()
    subprocess.run(["bindfs", *options, str(real), str(seen)], check=True)
    try:
        yield seen
    finally:
        subprocess.run(["umount", str(seen)], check=True)


def restored(engine: Engine, target: Path, refusals: Refusals) -> None:
    fd = tree.open_without_links(str(target))
    try:
        root = engine.capture().root
        Replay(StoreObjects(engine.store), fd, refusals=refusals).run(root)
    finally:
        os.close(fd)


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


DENYING = ("--chown-deny", "--chgrp-deny", "--chmod-deny", "--xattr-none")


def test_a_share_that_refuses_owners_modes_and_attributes_gets_all_content(engine: Engine) -> None:
    refusals = Refusals()
    with share(engine, *DENYING) as target:
        restored(engine, target, refusals)
        assert contents(target) == contents(engine.live)
        assert (target / "link").readlink() == (engine.live / "link").readlink()
        assert (target / "fifo").is_fifo()
    inodes = len(list(engine.live.rglob("*")))  # the directory itself, and one name less
    assert refusals.counts == {"owner": inodes, "mode": inodes - 1, "attribute": 2}
    assert not os.stat(engine.base / "real" / "program").st_mode & stat.S_ISUID
    told = {(each.path, each.what): each.problem for each in refusals.first}
    assert told["a", "attribute"].startswith("user.note: ")
    assert "not permitted" in told["program", "owner"]


def test_what_is_taken_without_being_done_is_told(engine: Engine) -> None:
    refusals = Refusals()
    with share(engine, "--chown-ignore", "--chgrp-ignore", "--chmod-ignore") as target:
        restored(engine, target, refusals)
    assert refusals.counts["owner"] == 1
    assert [each.path for each in refusals.first if each.what == "owner"][0] in (
        "program", "a/again",
    )  # fmt: skip
    assert refusals.counts["mode"] > 3


def test_what_is_not_wanted_is_not_refused(engine: Engine) -> None:
    refusals = Refusals(owner=False, xattrs=False)
    with share(engine, "--chown-deny", "--chgrp-deny", "--xattr-none") as target:
        restored(engine, target, refusals)
        assert contents(target) == contents(engine.live)
    assert refusals.counts == {}
    program = os.stat(engine.base / "real" / "program")
    assert (program.st_uid, stat.S_IMODE(program.st_mode)) == (0, 0o755), "no set-id for root"


def test_a_replay_for_a_mount_takes_no_refusal(engine: Engine) -> None:
    root = engine.capture().root
    with share(engine, *DENYING) as target, pytest.raises(PermissionError):
        restore(root, StoreObjects(engine.store), str(target))


def test_a_target_that_takes_all_is_equal(engine: Engine) -> None:
    refusals = Refusals()
    target = engine.base / "equal"
    target.mkdir()
    restored(engine, target, refusals)
    assert refusals.counts == {}
    assert difference(describe(engine.live), describe(target)) == []


def test_names_that_cannot_be_made_leave_out_only_themselves(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "refused")

    for act in ("link", "symlink", "mknod"):
        monkeypatch.setattr(os, act, refused)
    monkeypatch.setattr("diffkeeper.replay.refusals.REFUSALS_TOLD_MAX", 2)
    refusals = Refusals()
    target = engine.base / "target"
    target.mkdir()
    (target / "a").write_text("in the way")
    restored(engine, target, refusals)
    assert refusals.counts == {"symbolic link": 1, "FIFO": 1, "directory and all in it": 1}
    assert len(refusals.first) == 2
    shutil.rmtree(target)
    target.mkdir()
    again = Refusals()
    restored(engine, target, again)
    assert again.counts == {"symbolic link": 1, "FIFO": 1, "hard link": 1}
    assert contents(target) == contents(engine.live), "a second copy where no link can be made"


def test_a_full_disk_is_no_refusal(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "symlink", full)
    target = engine.base / "target"
    target.mkdir()
    with pytest.raises(OSError, match="full"):
        restored(engine, target, Refusals())
