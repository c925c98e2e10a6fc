"""A file is changed under a name that comes and goes between two looks: a comparison comes soon."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from diffkeeper import clock, failpoint
from tests.support.capture_rig import CaptureRig
from tests.support.churn import syscalls
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[CaptureRig]:
    """A volume of two files and a directory, none of which is new."""
    with CaptureRig(tmp_path) as made:
        for name in ("file", "other"):
            (made.live / name).write_bytes(name.encode() * 100)
        (made.live / "old").mkdir()
        made.capture()
        (made.live / "more").write_bytes(b"")
        made.capture()
        yield made


def change(live: Path, name: str) -> None:
    """Of `file`, under another name that it gets for that."""
    os.link(live / "file", live / name)
    (live / name).write_bytes(b"changed")


def removed(live: Path) -> None:
    change(live, "passing")
    (live / "passing").unlink()


def made_anew(live: Path) -> None:
    removed(live)
    (live / "passing").write_bytes(b"another file")


def replaced(live: Path) -> None:
    change(live, "passing")
    (live / "new").write_bytes(b"another file")
    os.rename(live / "new", live / "passing")


def in_place_of_another(live: Path) -> None:
    (live / "other").unlink()
    change(live, "other")
    (live / "other").unlink()


def exchanged_and_back(live: Path) -> None:
    os.link(live / "file", live / "passing")
    syscalls.rename(str(live / "passing"), str(live / "other"), syscalls.RENAME_EXCHANGE)
    (live / "other").write_bytes(b"changed")
    syscalls.rename(str(live / "passing"), str(live / "other"), syscalls.RENAME_EXCHANGE)
    (live / "passing").unlink()


def moved(live: Path) -> None:
    change(live, "passing")
    os.rename(live / "passing", live / "old" / "passing")
    (live / "old" / "passing").unlink()


def in_a_new_directory(live: Path) -> None:
    """Which is not watched yet."""
    (live / "new").mkdir()
    change(live, "new/passing")
    (live / "new/passing").unlink()


def in_a_directory_that_goes(live: Path) -> None:
    in_a_new_directory(live)
    (live / "new").rmdir()


KINDS = [
    removed, made_anew, replaced, in_place_of_another, exchanged_and_back, moved,
    in_a_new_directory, in_a_directory_that_goes,
]  # fmt: skip


def differences(rig: CaptureRig, name: str) -> list[str]:
    """Between the volume and the newest snapshot after another capture."""
    return difference(describe(rig.live), describe(rig.replay(rig.capture(), name)))


def assert_found_soon(rig: CaptureRig) -> None:
    """What the last capture missed is due, and found then."""
    comparison = rig.watched.comparison
    if differences(rig, "before"):
        assert comparison.due <= clock.monotonic() + comparison._soon, "later on a busy machine"
        comparison.due = clock.monotonic()
        assert differences(rig, "after") == []
        assert comparison.due > clock.monotonic() + comparison._soon, "that was all"


@pytest.mark.parametrize("act", KINDS)
def test_between_two_captures(act: Callable[[Path], None], rig: CaptureRig) -> None:
    act(rig.live)
    rig.capture()
    assert_found_soon(rig)


@pytest.mark.parametrize("act", KINDS)
def test_within_a_capture_that_compares_everything(
    act: Callable[[Path], None], rig: CaptureRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its comparison, which is of no use for that."""
    left = ["capture.precopied"]

    def hit(point: str) -> None:
        if point in left:
            left.remove(point)
            act(rig.live)

    monkeypatch.setattr(failpoint, "hit", hit)
    (rig.live / "more").write_bytes(b"due")
    rig.watched.comparison.due = clock.monotonic()
    rig.capture()
    assert not left
    assert_found_soon(rig)
