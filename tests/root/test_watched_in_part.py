"""Where watches are short, the part of a volume that has none is scanned, and no other."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from typing import TYPE_CHECKING

import pytest

from diffkeeper import clock, failpoint, limits
from diffkeeper.fsio import inode
from diffkeeper.fsio import inotify as kernel
from diffkeeper.snapshot.comparisons import COMPARE_SOON_SECONDS
from diffkeeper.snapshot.policy import CapturePolicy
from diffkeeper.snapshot.volume_capture import VolumeCapture
from diffkeeper.sources import inotify, ladder, watches
from diffkeeper.sources.ebpf import ebpf_source
from diffkeeper.sources.ebpf.probe import Sources
from diffkeeper.sources.inotify import InotifySource
from tests.support.capture_rig import CaptureRig
from tests.support.containers import Container
from tests.support.trees import describe, difference
from tests.support.user_namespace import lines_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from diffkeeper.format.records import SnapshotRecord

DIRECTORIES = 40
SHARE = 16
# Takes all watches that a user namespace has left, as other programs do.
TAKEN = """
import os, sys
from pathlib import Path
from diffkeeper.snapshot.policy import CapturePolicy
from diffkeeper.fsio.inotify import Instance
from tests.support.capture_rig import CaptureRig
from tests.support.trees import describe, difference
Path("/proc/sys/user/max_inotify_watches").write_text("200")
base, other = Path(sys.argv[1]), Instance()
for number in range(190):
    (base / "others" / str(number)).mkdir(parents=True)
    other.add_path(str(base / "others" / str(number)), 2)
with CaptureRig(base, CapturePolicy(source="inotify")) as rig:
    for number in range(20):
        (rig.live / f"d{number}").mkdir()
        (rig.live / f"d{number}" / "f").write_text(str(number))
    rig.capture()
    watched = rig.watched.watcher
    print(watched.source.name, watched.source.unwatched, watched.reason)
    for number in range(20):
        (rig.live / f"d{number}" / "f").write_text("changed")
    replayed = rig.replay(rig.capture(), "replayed")
    print(difference(describe(rig.live), describe(replayed)))
    other.close()
    rig.capture()
    print(watched.source.unwatched)
"""


@pytest.fixture(scope="module")
def sources() -> Iterator[Sources]:
    made = Sources()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def instances(monkeypatch: pytest.MonkeyPatch) -> watches.Instances:
    """Those of one test, which share nothing with other tests."""
    made = watches.Instances()
    monkeypatch.setattr(inotify, "SHARED", made)
    return made


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """So many watches for all sources of a test together."""

    def allow(number: int) -> None:
        monkeypatch.setattr(kernel, "limit", lambda _: number * limits.WATCHES_SHARE)

    allow(SHARE)
    return allow


@pytest.fixture(params=["inotify", "ebpf"])
def rig(request: pytest.FixtureRequest, tmp_path: Path, sources: Sources) -> Iterator[CaptureRig]:
    with CaptureRig(tmp_path, CapturePolicy(source=request.param), sources) as made:
        if made.watched.watcher.source.name != request.param:
            pytest.skip(made.watched.watcher.reason)
        yield made


@contextlib.contextmanager
def container(rig: CaptureRig) -> Iterator[None]:
    """Somebody has the volume mounted, and does nothing."""
    with Container() as made:
        made.start({rig.live: rig.base / "seen"}, "exec sleep 1000")
        yield


def fill(live: Path, directories: int = DIRECTORIES) -> None:
    for number in range(directories - 1):  # and the top
        (live / f"d{number:02}").mkdir(parents=True)
        (live / f"d{number:02}" / "f").write_text(str(number))


def assert_holds_live(rig: CaptureRig, snapshot: SnapshotRecord) -> None:
    replayed = rig.replay(snapshot, f"replay-{time.monotonic_ns()}")
    assert difference(describe(replayed), describe(rig.live)) == []
    assert (snapshot.consistency, snapshot.cause) == ("crash", "")


def unwatched(rig: CaptureRig) -> int:
    return rig.watched.watcher.source.unwatched


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Inode numbers of the directories whose names are looked at one by one."""
    found: list[int] = []
    real = inode.statuses

    def statuses(fd: int, *rest: object) -> object:
        found.append(os.fstat(fd).st_ino)
        return real(fd, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(inode, "statuses", statuses)
    return found


def test_what_has_no_watch_is_scanned_and_nothing_else(
    rig: CaptureRig, listed: list[int], instances: watches.Instances
) -> None:
    with container(rig):
        fill(rig.live)
        assert_holds_live(rig, rig.capture())
        assert unwatched(rig) == DIRECTORIES - SHARE
        assert len(instances) == SHARE
        listed.clear()
        for number in range(DIRECTORIES - 1):
            (rig.live / f"d{number:02}" / "f").write_text("changed")
            (rig.live / f"d{number:02}" / "new").mkdir()
        assert_holds_live(rig, rig.capture())
        new = DIRECTORIES - 1
        assert unwatched(rig) == DIRECTORIES + new - SHARE
        assert len(set(listed)) == unwatched(rig)
        assert rig.watched.watcher.source.name == rig.policy.source


def test_it_is_told(rig: CaptureRig, caplog: pytest.LogCaptureFixture) -> None:
    fill(rig.live)
    rig.capture()
    rig.capture()
    reason = rig.watched.watcher.reason
    assert "directories without a watch are scanned at each capture: 16 directories" in reason
    assert "fs.inotify.max_user_watches" in reason
    [record] = [each for each in caplog.records if each.message == "scanned_in_part"]
    assert record.__dict__["directories"] == DIRECTORIES - SHARE


def test_a_volume_in_which_nothing_happens_is_not_frozen(rig: CaptureRig) -> None:
    with container(rig):
        fill(rig.live)
        before = rig.capture()
        time.sleep(2 * limits.TIMESTAMP_GRANULE_NS / 1e9)  # until time stamps prove something
        assert not rig.watched.quiet()
        for _ in range(3):
            rig.capture_of("interval", rig.writers())
        assert rig.state.head == before
        frozen = rig.watched.frozen_seconds
        rig.capture_of("interval", rig.writers())
        assert rig.watched.frozen_seconds == frozen


def test_a_raised_limit_has_all_of_it_watched(
    rig: CaptureRig, few: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    fill(rig.live)
    rig.capture()
    few(10 * DIRECTORIES)
    for number in range(DIRECTORIES - 1):
        (rig.live / f"d{number:02}" / "f").write_text("changed")
    assert_holds_live(rig, rig.capture())
    assert unwatched(rig) == 0
    assert "without a watch" not in rig.watched.watcher.reason
    (rig.live / f"d{DIRECTORIES - 2:02}" / "f").write_text("again")
    assert_holds_live(rig, rig.capture())
    assert "watched_again" in [each.message for each in caplog.records]


def test_directories_that_move_between_the_parts(rig: CaptureRig) -> None:
    """Those with a watch below those without, and the other way round; some go and come back."""
    with container(rig):
        fill(rig.live)
        rig.capture()
        live = rig.live
        held = rig.watched.watcher.source
        names = sorted(path.name for path in live.iterdir())
        with_watch = [n for n in names if (live / n).stat().st_ino not in blind(held)]
        without = [n for n in names if n not in with_watch]
        for number, (one, other) in enumerate(zip(with_watch, without, strict=False)):
            if number % 2:
                os.rename(live / one, live / other / "moved")
            else:
                os.rename(live / other, live / one / "moved")
        assert_holds_live(rig, rig.capture())
        for path in [*live.glob("*/moved")][::2]:
            (path / "f").write_text("moved")
            os.rename(path, rig.base / f"outside{path.parent.name}")
        assert_holds_live(rig, rig.capture())
        for number, path in enumerate(sorted(rig.base.glob("outside*"))):
            (path / "f").write_text("back")
            os.rename(path, live / f"back{number}")
        assert_holds_live(rig, rig.capture())


def blind(source: object) -> set[int]:
    names = source._names if isinstance(source, ebpf_source.EbpfSource) else source
    assert isinstance(names, InotifySource)
    return set(names._unwatched)


def test_what_changes_in_a_freeze_in_the_part_that_is_scanned(
    rig: CaptureRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who is not frozen writes between two looks: seen, whichever part it is in."""
    rig.watched.policy = CapturePolicy(source=rig.policy.source, freeze_seconds_max=2.0)
    with container(rig):
        fill(rig.live)
        rig.capture()
        numbers = iter(range(1000))
        observe = VolumeCapture.copy

        def copy(self: object, attempt: int, budget: object) -> bool:
            if attempt:
                for number in range(0, DIRECTORIES - 1, 5):
                    path = rig.live / f"d{number:02}" / "f"
                    path.write_text(f"within {next(numbers)}")
            return observe(self, attempt, budget)  # type: ignore[arg-type]

        monkeypatch.setattr(VolumeCapture, "copy", copy)
        (rig.live / "d00" / "f").write_text("something is due")
        snapshot = rig.capture()
        assert (snapshot.consistency, "not frozen" in snapshot.cause) == ("fuzzy", True)


def test_what_fails_within_loses_nothing(rig: CaptureRig) -> None:
    with container(rig):
        fill(rig.live)
        rig.capture()
        for point in ("capture.drained", "capture.precopied", "capture.frozen", "capture.thawed"):
            for number in range(DIRECTORIES - 1):
                (rig.live / f"d{number:02}" / "f").write_text(point)
                (rig.live / f"d{number:02}" / point).mkdir()
            failpoint.arm(f"{point}=error")
            with pytest.raises(failpoint.FailpointError):
                rig.capture()
            failpoint.disarm()
            assert_holds_live(rig, rig.capture())


def test_a_file_written_under_a_name_that_came_and_went_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a directory without a watch: the file's other name gives no hint. A comparison tells."""
    with CaptureRig(tmp_path, CapturePolicy(source="inotify")) as rig, container(rig):
        fill(rig.live)
        (rig.live / "file").write_text("before")
        rig.capture()
        name = next(
            n
            for n in range(39)
            if (rig.live / f"d{n:02}").stat().st_ino in blind(rig.watched.watcher.source)
        )
        alias = rig.live / f"d{name:02}" / "alias"
        os.link(rig.live / "file", alias)
        with open(alias, "w") as file:
            alias.unlink()
            file.write("after")
        rig.capture()
        soon = clock.monotonic() + COMPARE_SOON_SECONDS
        monkeypatch.setattr(clock, "monotonic", lambda: soon)
        assert rig.watched.pending(rig.writers())
        assert_holds_live(rig, rig.capture())


def test_a_small_volume_gets_its_watches_beside_a_large_one(
    tmp_path: Path, few: Callable[[int], None]
) -> None:
    few(20)
    with contextlib.ExitStack() as stack:
        rigs = {}
        for name, number in (("large", 30), ("small", 5), ("smaller", 3)):
            (tmp_path / name).mkdir()
            rig = stack.enter_context(CaptureRig(tmp_path / name, CapturePolicy(source="inotify")))
            fill(rig.live, number)
            rig.capture()
            rigs[name] = rig
        for _ in range(2):
            for rig in rigs.values():
                if rig.watched.pending(rig.writers()):
                    rig.capture()
        assert {name: unwatched(rig) for name, rig in rigs.items()} == {
            "large": 30 - (20 - 5 - 3), "small": 0, "smaller": 0,
        }  # fmt: skip
        assert not rigs["small"].watched.pending(rigs["small"].writers())
        for rig in rigs.values():
            for path in rig.live.glob("d*/f"):
                path.write_text("changed")
            assert_holds_live(rig, rig.capture())


def test_a_volume_that_has_all_gives_some_of_them_up(
    tmp_path: Path, few: Callable[[int], None]
) -> None:
    """It fits alone, and is asked to share once another one lacks some."""
    few(20)
    with contextlib.ExitStack() as stack:
        rigs = []
        for name, number in (("first", 20), ("second", 30)):
            (tmp_path / name).mkdir()
            rig = stack.enter_context(CaptureRig(tmp_path / name, CapturePolicy(source="inotify")))
            fill(rig.live, number)
            rig.capture()
            rigs.append(rig)
        first, second = rigs
        assert (unwatched(first), unwatched(second)) == (0, 30)
        second.capture()
        assert first.watched.pending(first.writers())
        first.capture()
        second.capture()
        assert (unwatched(first), unwatched(second)) == (10, 20)
        second.close()
        stack.pop_all()
        with contextlib.closing(first):
            first.capture()
            assert unwatched(first) == 0


@pytest.mark.parametrize(
    ("wanted", "room", "level"),
    [([30, 5, 3], 20, 12), ([10, 10], 10, 5), ([1, 1, 100], 3, 1), ([5], 3, 3), ([9, 9], 1, 0)],
)
def test_shares(wanted: list[int], room: int, level: int) -> None:
    assert watches._level(wanted, room) == level
    assert sum(min(each, level) for each in wanted) <= room


def test_a_volume_beyond_its_own_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bounded = functools.partial(InotifySource, 10)
    monkeypatch.setattr(ladder, "InotifySource", bounded)
    with CaptureRig(tmp_path, CapturePolicy(source="inotify")) as rig:
        fill(rig.live, 12)
        assert_holds_live(rig, rig.capture())
        assert unwatched(rig) == 2
        assert "more than 10 directories" in rig.watched.watcher.reason


def test_watches_that_others_have_taken(tmp_path: Path) -> None:
    """The kernel itself refuses one, in a user namespace, which has a limit of its own."""
    source, differs, again = lines_of(TAKEN, tmp_path)
    assert source.startswith("inotify 11 ")
    assert "the kernel has no more inotify watches: raise user.max_inotify_watches" in source
    assert (differs, again) == ("[]", "0")
