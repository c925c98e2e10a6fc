"""Captures of volumes of which a part is left out, by every source."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sys
import threading
import time
from random import Random
from typing import TYPE_CHECKING

import pytest

from diffkeeper.fsio import inode
from diffkeeper.integrity.verify import Verifier
from diffkeeper.snapshot.policy import CapturePolicy
from diffkeeper.sources.ebpf.probe import Sources
from tests.support.capture_rig import CaptureRig
from tests.support.containers import Container
from tests.support.trees import Description, describe, difference, without

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from diffkeeper.format.records import SnapshotRecord

GLOBS = ("cache", "a/*/skip", "**/*.tmp", "logs/**")
NOTE = "left out by the option exclude (cache,a/*/skip,**/*.tmp,logs/**)"


@pytest.fixture(scope="module")
def sources() -> Iterator[Sources]:
    made = Sources()
    yield made
    made.close()


@pytest.fixture(params=["scan", "inotify", "ebpf"])
def rig(request: pytest.FixtureRequest, tmp_path: Path, sources: Sources) -> Iterator[CaptureRig]:
    with CaptureRig(tmp_path, CapturePolicy(source=request.param, exclude=GLOBS), sources) as made:
        if made.watched.watcher.source.name != request.param:
            pytest.skip(made.watched.watcher.reason)
        yield made


def kept(path: Path) -> Description:
    return without(describe(path), GLOBS)


def fill(live: Path) -> None:
    for name in ("cache/x", "a/1/skip/deep/x", "a/1/kept", "a/x.tmp", "logs/old/1", "b/skip", "c"):
        (live / name).parent.mkdir(parents=True, exist_ok=True)
        (live / name).write_text(name)


def assert_holds(rig: CaptureRig, snapshot: SnapshotRecord) -> None:
    replayed = rig.replay(snapshot, f"replay-{time.monotonic_ns()}")
    assert describe(replayed) == kept(replayed)
    assert difference(describe(replayed), kept(rig.live)) == []
    verifier = Verifier(rig.store, rig.reader)
    result = verifier.live(str(rig.live), snapshot.root, None, GLOBS)
    assert result.mismatches == []
    assert (snapshot.consistency, snapshot.cause) == ("crash", NOTE)


# Maps a file, and stores to it for ever.
STORER = """
import mmap, sys, time
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 4096)
open(sys.argv[2], "w").close()
while True:
    memory[:5] = b"store"
    time.sleep(0.001)
"""


def test_a_mapped_file_that_is_left_out_has_nobody_frozen(rig: CaptureRig, tmp_path: Path) -> None:
    """Each interval looks, since it might be another file; there is nothing to record."""
    fill(rig.live)
    (rig.live / "cache/x").write_bytes(bytes(4096))
    program = tmp_path / "storer.py"
    program.write_text(STORER)
    with Container() as container:
        paths = f"{tmp_path}/seen/cache/x {tmp_path}/mapped"
        container.start({rig.live: tmp_path / "seen"}, f"exec {sys.executable} {program} {paths}")
        deadline = time.monotonic() + 20
        while not (tmp_path / "mapped").exists():
            assert time.monotonic() < deadline, "the file is not mapped"
            time.sleep(0.01)
        first = rig.capture()
        rig.capture()
        frozen = rig.watched.frozen_seconds
        for _ in range(3):
            rig.capture_of("interval", rig.writers())
        assert rig.state.head == first
        if rig.policy.source != "scan":  # which compares all names in a freeze each time
            assert rig.watched.frozen_seconds == frozen
        (rig.live / "c").write_text("changed")
        assert_holds(rig, rig.capture())


def test_only_the_rest_is_captured(rig: CaptureRig) -> None:
    fill(rig.live)
    first = rig.capture()
    assert first.files == 3
    assert_holds(rig, first)
    (rig.live / "a/1/kept").write_text("new")
    (rig.live / "d").mkdir()
    assert_holds(rig, rig.capture())


def test_what_is_left_out_makes_no_snapshot(rig: CaptureRig) -> None:
    fill(rig.live)
    first = rig.capture()
    for turn in range(3):
        for name in ("cache/x", "a/1/skip/deep/x", "a/x.tmp", "logs/old/1"):
            (rig.live / name).write_text(f"{turn}")
        (rig.live / "cache" / f"new-{turn}").mkdir()
        assert rig.capture() == first
    (rig.live / "a/y.tmp").write_text("moves the time of its directory alone")
    second = rig.capture()
    assert second.seq == first.seq + 1
    assert_holds(rig, second)


def test_what_moves_in_and_out(rig: CaptureRig) -> None:
    live = rig.live
    fill(live)
    rig.capture()
    steps = [
        ("c", "c.tmp"), ("c.tmp", "c"), ("b", "cache/b"), ("cache", "kept"), ("kept/b", "b"),
        ("kept", "cache"), ("a/1/skip", "skip"), ("skip", "a/1/skip"), ("a", "moved"),
        ("moved", "a"), ("b/skip", "a/1/new"), ("a/1/new", "a/1/new.tmp"), ("a/1/new.tmp", "new"),
        ("logs/old", "old"), ("logs", "b/logs"), ("b/logs", "logs"),
    ]  # fmt: skip
    for before, after in steps:
        os.rename(live / before, live / after)
        assert_holds(rig, rig.capture())


def test_a_directory_that_moves_with_what_changes_in_it(rig: CaptureRig) -> None:
    """Nothing but its own name tells that other names are left out below it."""
    live = rig.live
    fill(live)
    rig.capture()
    for turn in range(2):
        os.rename(live / "a", live / "moved")
        (live / "moved/1/skip/deep/x").write_text(f"turn {turn}")
        assert_holds(rig, rig.capture())
        os.rename(live / "moved", live / "a")
        (live / "a/1/skip/deep/x").write_text("unseen")
        (live / "a/1/kept").write_text(f"turn {turn}")
        assert_holds(rig, rig.capture())


def test_other_names_of_what_is_left_out(rig: CaptureRig) -> None:
    live = rig.live
    fill(live)
    os.link(live / "c", live / "c.tmp")
    os.link(live / "cache/x", live / "x")
    assert_holds(rig, rig.capture())
    (live / "x").write_text("through the name that is kept")
    (live / "c.tmp").unlink()
    assert_holds(rig, rig.capture())
    os.link(live / "c", live / "cache/c")
    (live / "x").unlink()
    assert_holds(rig, rig.capture())


def test_globs_that_are_new_when_the_volume_is_opened(tmp_path: Path) -> None:
    base = tmp_path
    with CaptureRig(base, CapturePolicy(source="inotify")) as rig:
        fill(rig.live)
        whole = rig.capture()
        assert whole.files == 7
    with CaptureRig(base, CapturePolicy(source="inotify", exclude=GLOBS)) as rig:
        assert_holds(rig, rig.capture())


BURSTS = int(os.environ.get("EXCLUSION_BURSTS", "2"))


PATHS = sorted(
    {
        "/".join(parts[:depth])
        for depth in (1, 2, 3)
        for parts in itertools.product(("a", "cache", "1"), ("skip", "d", "1"), ("skip", "g.tmp"))
    }
)


def burst(live: Path, random: Random, until: threading.Event) -> None:
    """Anything with any name, again and again; most of it fails."""
    while not until.is_set():
        one, other = live / random.choice(PATHS), live / random.choice(PATHS)
        with contextlib.suppress(OSError):
            match random.randrange(6):
                case 0:
                    one.mkdir(parents=True)
                case 1:
                    shutil.rmtree(one)
                case 2:
                    one.unlink()
                case 3 | 4:
                    os.rename(one, other)
                case _:
                    one.write_bytes(random.randbytes(random.choice((10, 5000, 40_000))))


@pytest.mark.parametrize("seed", range(1, 1 + BURSTS))
def test_names_that_move_in_and_out_while_they_are_captured(rig: CaptureRig, seed: int) -> None:
    """What the hints and the looks of some captures left is what is on disk."""
    random, ended = Random(seed), threading.Event()
    for name in ("a/d", "cache/d", "1/skip"):
        (rig.live / name).mkdir(parents=True)
    for _ in range(3):
        ended.clear()
        writer = threading.Thread(target=burst, args=(rig.live, random, ended))
        writer.start()
        for _ in range(4):
            rig.capture()
        ended.set()
        writer.join()
        snapshot = rig.capture()
        replayed = rig.replay(snapshot, f"replay-{time.monotonic_ns()}")
        assert difference(describe(replayed), kept(rig.live)) == []


@pytest.mark.parametrize("exclude", [("x/y/d/name",), ("d/name",)], ids=["in", "out"])
def test_a_directory_that_moves_within_the_look_at_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exclude: tuple[str, ...]
) -> None:
    """A glob is of paths: names in it that were looked at are another matter at the new place."""
    with CaptureRig(tmp_path, CapturePolicy(source="inotify", exclude=exclude)) as rig:
        old, new = rig.live / "d", rig.live / "x/y/d"
        for directory in (old, new.parent):
            directory.mkdir(parents=True)
        (old / "name").write_bytes(b"looked at")
        for number in range(3):  # until nothing is new
            (rig.live / "more").write_bytes(b"%d" % number)
            rig.capture()
        (old / "name").write_bytes(b"looked at again")
        (old / "other").write_bytes(b"hinted, too")
        new.mkdir()
        new.rmdir()
        (new.parent / "due").write_bytes(b"")
        pinned = inode.pinned

        def moved(
            directory: int, name: bytes
        ) -> contextlib.AbstractContextManager[tuple[int, os.stat_result]]:
            if name in (b"name", b"other") and old.exists():
                os.rename(old, new)
            return pinned(directory, name)

        monkeypatch.setattr(inode, "pinned", moved)
        replayed = rig.replay(rig.capture(), "replayed")
        assert new.exists()
        assert difference(without(describe(rig.live), exclude), describe(replayed)) == []
