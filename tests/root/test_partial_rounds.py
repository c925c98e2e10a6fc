"""A round of looking that ends early, or is taken over in parts: nothing it found is left out."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper import failpoint, limits
from diffkeeper.errors import FreezeError
from diffkeeper.fsio import inode
from diffkeeper.snapshot.outcome import Budget
from diffkeeper.snapshot.policy import CapturePolicy
from tests.support.capture_rig import CaptureRig
from tests.support.containers import Container
from tests.support.spanning import GroupRig
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Iterator
    from typing import Any

    from diffkeeper.snapshot.watched_volume import WatchedVolume

FREEZE_SECONDS = 2.0  # on a busy machine a process may be slow to stop
CHECKS_MAX = 40  # more than there are in one freeze here


@pytest.fixture
def volumes() -> Iterator[GroupRig]:
    """In memory: each capture and each replay syncs what it has written."""
    policy = CapturePolicy(source="inotify", freeze_seconds_max=FREEZE_SECONDS)
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as base,
        GroupRig(Path(base), ["one"], policy) as made,
        Container() as container,
    ):
        container.start({made.live["one"]: made.base / "seen"}, "exec sleep 1000")
        yield made


class Interruption:
    """Changes the volume in a capture's first freeze, and ends that freeze at its nth check."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real = Budget.check
        self._act: Callable[[], None] | None = None
        self._left = 0
        monkeypatch.setattr(failpoint, "hit", self._hit)
        monkeypatch.setattr(Budget, "check", lambda budget: self._check(budget))

    def arm(self, act: Callable[[], None], number: int) -> None:
        self._act, self._left = act, number

    @property
    def happened(self) -> bool:
        return not self._left

    def _hit(self, point: str) -> None:
        if point == "capture.frozen" and self._act is not None:
            act, self._act = self._act, None
            act()

    def _check(self, budget: Budget) -> None:
        if self._act is None and self._left:
            self._left -= 1
            if not self._left:
                raise FreezeError("more had changed than could be copied within the freeze limit")
        self._real(budget)


def second_name(top: Path) -> None:
    """The first one, which nothing was written to, is a link from now on."""
    os.link(top / "a", top / "b")


def lost_name(top: Path) -> None:
    """What was written through it shows at the name that is left, which gives no hint."""
    (top / "link1").write_bytes(b"changed")
    (top / "link1").unlink()


def moved_directory(top: Path) -> None:
    (top / "d" / "f").write_bytes(b"changed")
    os.rename(top / "d", top / "e" / "d")


def exchanged_directories(top: Path) -> None:
    (top / "d" / "f").write_bytes(b"changed")
    os.rename(top / "d", top / "x")
    os.rename(top / "e", top / "d")
    os.rename(top / "x", top / "e")
    (top / "d" / "new").write_bytes(b"new")


def remade(top: Path) -> None:
    """A directory where a file was, and a file where a directory was."""
    os.rename(top / "a", top / "e" / "a")
    (top / "a").mkdir()
    (top / "a" / "f").write_bytes(b"below")
    os.rename(top / "d", top / "e" / "d")
    (top / "d").write_bytes(b"a file")


def new_directories(top: Path) -> None:
    """One is listed, and nothing hints at what is in it, when the round ends in the other."""
    for name in ("x", "y"):
        (top / name / "below").mkdir(parents=True)
        for number in range(3):
            (top / name / "below" / str(number)).write_bytes(b"new")
        (top / name / "f").write_bytes(b"new")


def directory_in_anothers_place(top: Path) -> None:
    """The one that was there is nowhere."""
    os.unlink(top / "d" / "f")
    os.rmdir(top / "d")
    (top / "takes its inode number").mkdir()
    (top / "d").mkdir()
    (top / "d" / "new").write_bytes(b"new")


def prepare(top: Path) -> None:
    top.mkdir()
    for name in ("d", "e"):
        (top / name).mkdir()
        (top / name / "f").write_bytes(name.encode() * 100)
    for name in ("a", "link0"):
        (top / name).write_bytes(name.encode() * 100)
    os.link(top / "link0", top / "link1")


def forgotten(watched: WatchedVolume) -> list[str]:
    """Directories that are known, and not where they are known to be."""
    assert watched._staged is not None
    return [
        repr(each.path())
        for each in watched._staged.tree.by_inode.values()
        if each.parent is not None and each.parent.children.get(each.name) is not each
    ]


@pytest.mark.parametrize(
    "act",
    [
        second_name, lost_name, moved_directory, exchanged_directories, remade, new_directories,
        directory_in_anothers_place,
    ],
)  # fmt: skip
def test_a_freeze_that_ends_early_leaves_nothing_out(
    act: Callable[[Path], None], volumes: GroupRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    interruption = Interruption(monkeypatch)
    live = volumes.live["one"]
    for number in range(1, CHECKS_MAX):
        prepare(live / str(number))
    # What is new is looked at in the next capture, too, hint or not; what is old is not.
    for name in ("one", "two", "three"):
        (live / name).write_bytes(b"something changes")
        volumes.capture()
    for number in range(1, CHECKS_MAX):
        (live / "due").write_bytes(b"%d" % number)
        interruption.arm(partial(act, live / str(number)), number)
        [record] = volumes.capture().values()
        assert (record.consistency, record.cause) == ("crash", "")
        replayed = volumes.replay(record, volumes.base / "replayed" / str(number))
        assert difference(describe(live), describe(replayed)) == [], f"ended at check {number}"
        assert forgotten(volumes.watched["one"]) == []
        if not interruption.happened:
            return
    pytest.fail("the freeze looks without an end")


def test_a_second_name_that_comes_while_the_first_is_being_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen alone and recorded so, in the very round that then meets the second name."""
    with CaptureRig(tmp_path) as rig:
        first, second = rig.live / "a", rig.live / "d" / "b"
        second.parent.mkdir()
        rig.capture()
        first.write_bytes(b"content")
        second.write_bytes(b"a name to look at")
        second.unlink()
        pinned = inode.pinned

        def pinned_late(directory: int, name: bytes) -> contextlib.AbstractContextManager[Any]:
            if name == b"b" and first.stat().st_nlink == 1:
                os.link(first, second)
            return pinned(directory, name)

        monkeypatch.setattr(inode, "pinned", pinned_late)
        monkeypatch.setattr(limits, "OBSERVE_NAMES_MAX", 0)
        replayed = rig.replay(rig.capture(), "replayed")
        assert first.stat().st_nlink == 2
        assert difference(describe(rig.live), describe(replayed)) == []
