"""The ladder of sources: a source is a class and its rung, and what fails says why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from diffkeeper.errors import InvalidInputError, UnsupportedError
from diffkeeper.snapshot.policy import CapturePolicy
from diffkeeper.sources import ladder
from diffkeeper.sources.ebpf.probe import Sources
from diffkeeper.sources.ladder import LADDER, Rung, VolumePlace
from diffkeeper.sources.scan import ScanSource
from diffkeeper.volumes.options import parse_options
from tests.support.capture_rig import CaptureRig

if TYPE_CHECKING:
    from pathlib import Path

    from diffkeeper.sources.base import Source
    from diffkeeper.sources.ladder import Programs

PLACE = VolumePlace(0, "ext4", 16)
NO_PROGRAMS = Sources(off=True)


class MadeUp(ScanSource):
    """A source of a file of its own."""

    name = "made-up"


def start(programs: Programs, place: VolumePlace) -> tuple[Source, str]:
    return MadeUp(), "it is made up"


def refuse(programs: Programs, place: VolumePlace) -> tuple[Source, str]:
    raise UnsupportedError("there is none")


def test_a_source_is_its_rung() -> None:
    rungs = (Rung("made-up", start), *LADDER)
    choice = ladder.choose("auto", PLACE, NO_PROGRAMS, rungs)
    assert choice.source.name == "made-up"
    assert choice.reason == "the finest source, and it works here; it is made up"
    choice = ladder.choose("made-up", PLACE, NO_PROGRAMS, rungs)
    asked = "asked for by the volume's option capture=made-up"
    assert choice.reason == f"{asked}; it is made up"
    assert ladder.replacement(rungs) == "made-up"


def test_a_rig_captures_with_a_source_that_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "LADDER", (Rung("made-up", start), *LADDER))
    with CaptureRig(tmp_path, CapturePolicy(source="auto")) as rig:
        assert rig.watched.watcher.source.name == "made-up"
        (rig.live / "file").write_bytes(b"content")
        assert rig.capture() is not None


def test_one_that_refuses_is_followed_by_the_next() -> None:
    rungs = (Rung("a", refuse), Rung("b", refuse), Rung("c", start))
    choice = ladder.choose("a", PLACE, NO_PROGRAMS, rungs)
    assert choice.reason == "there is none; there is none; it is made up"
    with pytest.raises(UnsupportedError, match="there is none; there is none"):
        ladder.choose("auto", PLACE, NO_PROGRAMS, rungs[:2])


@pytest.mark.parametrize(
    ("wanted", "used", "coarser"),
    [
        ("auto", "ebpf", False),
        ("auto", "inotify", False),
        ("auto", "scan", True),
        ("ebpf", "inotify", True),
        ("inotify", "scan", True),
        ("inotify", "inotify", False),
        ("scan", "scan", False),
    ],
)
def test_what_is_coarser_than_asked_for(wanted: str, used: str, coarser: bool) -> None:
    assert ladder.fell_back(wanted, used) is coarser


def test_every_rung_is_a_value_of_the_option() -> None:
    assert ladder.NAMES == ("auto", "ebpf", "inotify", "scan")
    for name in ladder.NAMES:
        assert parse_options({"capture": name}).policy.source == name
    with pytest.raises(InvalidInputError, match="auto, ebpf, inotify, scan"):
        parse_options({"capture": "made-up"})
