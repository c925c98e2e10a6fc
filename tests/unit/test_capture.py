"""What a capture does when a source gives up, a capture fails, or files change under its eyes."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import subprocess
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from diffkeeper import failpoint, limits
from diffkeeper.failpoint import FailpointError
from diffkeeper.freeze.writers import Writers
from diffkeeper.fsio import inode
from diffkeeper.snapshot.policy import CapturePolicy
from diffkeeper.sources import ladder
from diffkeeper.sources.inotify import InotifySource
from tests.support.beside import beside
from tests.support.capture_rig import CaptureRig
from tests.support.trees import Description, describe, difference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from diffkeeper.format.records import SnapshotRecord
    from diffkeeper.sources.base import Dirty

SOURCES = ["inotify", "scan"]


@pytest.fixture(params=SOURCES)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CaptureRig]:
    with CaptureRig(tmp_path, CapturePolicy(source=request.param)) as made:
        yield made


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoint.disarm()


def replayed(rig: CaptureRig, snapshot: SnapshotRecord) -> Description:
    return describe(rig.replay(snapshot, f"replay-{time.monotonic_ns()}"))


def assert_holds_live(rig: CaptureRig, snapshot: SnapshotRecord) -> None:
    assert difference(replayed(rig, snapshot), describe(rig.live)) == []


# Nothing hinted is lost by a capture that fails

POINTS = [
    "capture.drained",
    "capture.precopied",
    "capture.thawed",
    "capture.before_commit",
    "store.before_commit",
]


@pytest.mark.parametrize("point", POINTS)
def test_a_failed_capture_loses_nothing(point: str, rig: CaptureRig) -> None:
    (rig.live / "kept").write_bytes(b"kept")
    (rig.live / "old-name").write_bytes(b"renamed")
    (rig.live / "gone").write_bytes(b"gone")
    (rig.live / "d").mkdir()
    (rig.live / "d" / "deep").write_bytes(b"deep")
    first = rig.capture()
    before = describe(rig.live)
    os.rename(rig.live / "old-name", rig.live / "new-name")
    os.rename(rig.live / "d", rig.live / "moved")
    os.link(rig.live / "kept", rig.live / "moved" / "link")
    (rig.live / "gone").unlink()
    (rig.live / "moved" / "deep").write_bytes(b"other")
    (rig.live / "new").write_bytes(b"new")
    for _ in range(2):
        failpoint.arm(f"{point}=error")
        with pytest.raises(FailpointError):
            rig.capture()
        assert rig.state.head == first
    second = rig.capture()
    assert (second.seq, second.consistency) == (first.seq + 1, "crash")
    assert_holds_live(rig, second)
    assert difference(replayed(rig, first), before) == []


def test_a_capture_that_fails_after_its_commit(rig: CaptureRig) -> None:
    """The snapshot is there, and the next capture neither loses nor repeats anything."""
    (rig.live / "a").write_bytes(b"a")
    rig.capture()
    (rig.live / "a").write_bytes(b"b")
    failpoint.arm("store.after_commit=error")
    with pytest.raises(FailpointError):
        rig.capture()
    (rig.live / "c").write_bytes(b"c")
    assert_holds_live(rig, rig.capture())
    stored = list(rig.store.snapshots(rig.state.record.id))
    assert [snapshot.seq for snapshot in stored] == list(range(1, len(stored) + 1))
    assert rig.state.head == stored[-1]


def test_objects_are_stored_on_the_way_of_a_large_capture(rig: CaptureRig) -> None:
    """What was stored before the failure is not stored again, and no snapshot shows it."""
    data = random.Random(1).randbytes(limits.BATCH_BYTES_MAX + (4 << 20))
    (rig.live / "large").write_bytes(data)
    failpoint.arm("store.objects_flushed=error")
    with pytest.raises(FailpointError):
        rig.capture()
    assert rig.state.head is None
    assert rig.store.totals()["chunks"] > 0
    snapshot = rig.capture()
    assert snapshot.new_bytes < len(data)
    assert_holds_live(rig, snapshot)


# Sources that give up


def test_too_many_names_lead_to_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DIRTY_NAMES_MAX", 50)
    with CaptureRig(tmp_path, CapturePolicy(source="inotify")) as rig:
        (rig.live / "d").mkdir()
        rig.capture()
        for number in range(200):
            (rig.live / "d" / f"f{number}").write_bytes(b"%d" % number)
        snapshot = rig.capture()
        assert snapshot.files == 200
        assert_holds_live(rig, snapshot)


class Busy(InotifySource):
    """A source that finds more changes at each drain, for as long as there are some to make."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[Callable[[], None]] = []

    def drain(self, *, frozen: bool = False) -> Dirty:
        if self.changes:
            self.changes.pop(0)()
        return super().drain(frozen=frozen)


def test_what_is_hinted_between_rounds_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round that found nothing new is no reason to leave what was hinted meanwhile."""
    source = Busy()
    monkeypatch.setattr(ladder, "InotifySource", lambda: source)
    with CaptureRig(tmp_path, CapturePolicy(source="inotify")) as rig:
        file = rig.live / "file"
        file.write_bytes(b"1")
        rig.capture()
        mode = file.stat().st_mode
        for position in range(1, 5):
            # Changes that change nothing, then one that does.
            source.changes = [lambda: os.chmod(file, mode)] * position
            source.changes.append(lambda: os.truncate(file, 1000))
            file.write_bytes(b"x" * position)
            rig.capture()
            source.changes.clear()
            assert_holds_live(rig, rig.capture())


# Directories that come back


def settled() -> None:
    """Waits until timestamps of what was done before prove something."""
    time.sleep(3 * limits.TIMESTAMP_GRANULE_NS / 1e9)


def test_a_directory_that_goes_and_comes_back_within_a_capture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen in it before it went is forgotten with it."""
    source = Busy()
    monkeypatch.setattr(ladder, "InotifySource", lambda: source)
    with CaptureRig(tmp_path, CapturePolicy(source="inotify")) as rig:
        directory, away = rig.live / "d" / "e", tmp_path / "away"
        directory.mkdir(parents=True)
        (directory / "file").write_bytes(b"1")
        rig.capture()
        (directory / "file").write_bytes(b"22")
        settled()
        source.changes = [
            lambda: None,
            lambda: os.rename(directory, away),
            lambda: os.rename(away, directory),
        ]
        assert_holds_live(rig, rig.capture())
        assert source.changes == []
        assert_holds_live(rig, rig.capture())


def test_a_directory_that_comes_back_in_place_of_another(tmp_path: Path) -> None:
    """Its files still have the signatures that were recorded when it was there before."""
    with CaptureRig(tmp_path, CapturePolicy(source="inotify")) as rig:
        directory, away = rig.live / "d", tmp_path / "away"
        directory.mkdir()
        (directory / "file").write_bytes(b"first")
        settled()
        rig.capture()
        os.rename(directory, away)
        directory.mkdir()
        (directory / "file").write_bytes(b"second")
        assert_holds_live(rig, rig.capture())
        subprocess.run(["rm", "-r", str(directory)], check=True)
        os.rename(away, directory)
        assert_holds_live(rig, rig.capture())


@pytest.mark.parametrize("source", SOURCES)
def test_a_live_directory_exchanged_and_exchanged_again(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffkeeper.fsio.inode.mmap_dirty_horizon_ns", lambda: 0)
    live, away = tmp_path / "live", tmp_path / "away"
    live.mkdir()
    away.mkdir()
    for path in (live, away):
        (path / "d").mkdir()
        (path / "d" / "file").write_bytes(path.name.encode())
        (path / "file").write_bytes(path.name.encode())
    settled()
    for _ in range(3):
        with CaptureRig(tmp_path, CapturePolicy(source=source)) as rig:
            assert_holds_live(rig, rig.capture())
        os.rename(live, tmp_path / "third")
        os.rename(away, live)
        os.rename(tmp_path / "third", away)


# Mappings that end while a capture is under way


def at(monkeypatch: pytest.MonkeyPatch, acts: dict[str, Callable[[], None]]) -> None:
    """Acts once each at failpoints."""
    monkeypatch.setattr(failpoint, "hit", lambda name: acts.pop(name, lambda: None)())


def changed_unseen(mapping: mmap.mmap) -> None:
    """Stores to a page that is dirty already, which moves no timestamp, and ends the mapping."""
    settled()
    mapping[0] += 1
    mapping.close()


def mapped(path: Path) -> mmap.mmap:
    """The file as a shared mapping that was stored to, so that its page is dirty."""
    with open(path, "r+b") as file:
        mapping = mmap.mmap(file.fileno(), 4096)
    mapping[0] += 1
    settled()
    return mapping


def test_a_mapping_that_ends_during_a_capture(
    rig: CaptureRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = rig.live / "file"
    path.write_bytes(bytes(10_000))
    rig.capture()
    mapping = mapped(path)
    at(monkeypatch, {"capture.precopied": lambda: changed_unseen(mapping)})
    snapshot = rig.capture_of("manual", Writers(pids=(os.getpid(),)))
    assert snapshot is not None
    assert path.read_bytes()[0] == 2
    assert_holds_live(rig, snapshot)


def test_a_mapping_that_comes_and_goes_during_a_capture(
    rig: CaptureRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = rig.live / "file"
    path.write_bytes(bytes(10_000))
    rig.capture()
    (rig.live / "other").write_bytes(b"")
    maps: list[mmap.mmap] = []
    acts: dict[str, Callable[[], None]] = {
        "capture.drained": lambda: maps.append(mapped(path)),
        "capture.precopied": lambda: changed_unseen(maps[0]),
    }
    at(monkeypatch, acts)
    snapshot = rig.capture_of("manual", Writers(pids=(os.getpid(),)))
    assert snapshot is not None
    assert path.read_bytes()[0] == 2
    assert_holds_live(rig, snapshot)


def test_a_mapping_that_ended_leaves_no_work(rig: CaptureRig) -> None:
    path = rig.live / "file"
    path.write_bytes(bytes(10_000))
    rig.capture()
    mapping = mapped(path)
    rig.capture_of("manual", Writers(pids=(os.getpid(),)))
    mapping.close()
    while rig.capture_of("manual", Writers()) is not None:
        pass
    assert not rig.watched.unseen.due_files(Writers())


# Files that change while they are looked at


def grow(live: Path, number: int) -> None:
    with open(live / "file", "ab") as file:
        file.write(b"%d" % number * 5000)
        if number % 40 == 0:
            file.truncate(100)


def vanish(live: Path, number: int) -> None:
    path = live / f"d{number % 3}" / f"f{number % 20}"
    if path.exists():
        path.unlink()
    elif not path.parent.exists():
        path.parent.mkdir()
    elif number % 50 == 0:
        subprocess.run(["rm", "-rf", str(path.parent)], check=True)
    else:
        path.write_bytes(b"%d" % number * 1000)


def change_type(live: Path, number: int) -> None:
    path = live / f"x{number % 5}"
    kind = number % 4
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    if kind == 0:
        path.write_bytes(b"%d" % number)
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path.symlink_to("file")
    else:
        os.mkfifo(path)


@pytest.mark.parametrize("act", [grow, vanish, change_type])
def test_files_that_change_while_they_are_read(
    act: Callable[[Path, int], None], rig: CaptureRig
) -> None:
    """No capture fails; one that was not quiet says so; what follows is exact."""
    deadline = time.monotonic() + 2
    taken = 0
    with beside(lambda number: act(rig.live, number), 0.0005):
        while time.monotonic() < deadline:
            snapshot = rig.capture()
            taken += 1
            replayed(rig, snapshot)
    assert taken > 1
    snapshot = rig.capture()
    assert snapshot.consistency == "crash"
    assert_holds_live(rig, snapshot)


def test_a_file_that_grows_between_looks_at_two_of_its_names(
    rig: CaptureRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write under way has moved the timestamp already when it moves the size."""
    first, second = rig.live / "a", rig.live / "b"
    first.write_bytes(random.Random(1).randbytes(400_000))
    os.link(first, second)
    rig.capture()
    first.write_bytes(random.Random(2).randbytes(300_000))
    pinned, looks = inode.pinned, []

    @contextlib.contextmanager
    def forged(directory: int, name: bytes) -> Iterator[tuple[int, os.stat_result]]:
        with pinned(directory, name) as (pin, status):
            looks.append(name)
            if looks.count(b"a") + looks.count(b"b") == 2:
                os.truncate(first, 700_000)
            found = os.fstat(pin)
            names = [each for each in dir(found) if each.startswith("st_")]
            fields = {each: getattr(found, each) for each in names} | {"st_ctime_ns": 1}
            yield pin, cast("os.stat_result", SimpleNamespace(**fields))

    with monkeypatch.context() as patch:
        patch.setattr(inode, "pinned", forged)
        rig.capture_of("manual", Writers())
    first.write_bytes(random.Random(3).randbytes(500_000))
    assert_holds_live(rig, rig.capture())


@pytest.mark.timeout(30)
def test_directories_that_change_places_under_a_look(
    rig: CaptureRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is found in what was below it is in no circle: no look goes on for ever."""
    live, pinned = rig.live, inode.pinned
    (live / "a/b").mkdir(parents=True)
    (live / "a/b/x").write_text("x")
    rig.capture()
    (live / "a/b/a").write_text("a name to look at")
    (live / "a/b/a").unlink()
    swapped: list[bytes] = []

    def pinned_late(directory: int, name: bytes) -> contextlib.AbstractContextManager[Any]:
        within = os.readlink(f"/proc/self/fd/{directory}")
        if not swapped and within == str(live / "a/b"):
            os.rename(live / "a/b", live / "b")
            os.rename(live / "a", live / "b/a")
            swapped.append(name)
            name = b"a"
        return pinned(directory, name)

    monkeypatch.setattr(inode, "pinned", pinned_late)
    (live / "a/b/x").write_text("y")
    rig.capture()
    assert swapped
    assert_holds_live(rig, rig.capture())
    assert sorted(each.name for each in (live / "b").iterdir()) == ["a", "x"]
