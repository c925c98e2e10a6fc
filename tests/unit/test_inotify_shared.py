"""A few inotify instances for all volumes: what they take of the machine, and one costs others."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper import limits
from diffkeeper.capture import inotify, watches
from diffkeeper.capture.inotify import InotifySource
from diffkeeper.capture.watches import Instances, Watches
from diffkeeper.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VOLUMES = 200
Made = tuple[InotifySource, Path]


def instances() -> int:
    links = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    return sum("inotify" in link for link in links)


def watched(source: InotifySource, directory: Path) -> bool:
    fd = os.open(directory, os.O_RDONLY)
    try:
        return source.watch(os.fstat(fd).st_ino, fd)
    finally:
        os.close(fd)


@pytest.fixture(autouse=True)
def shared(monkeypatch: pytest.MonkeyPatch) -> Watches:
    """The one instance that the sources of a test share."""
    monkeypatch.setattr(limits, "INOTIFY_INSTANCES_MAX", 1)
    instances = Instances()
    monkeypatch.setattr(inotify, "SHARED", instances)
    return instances.least_used()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[], Made]]:
    """Started sources, each with a directory that it watches."""
    with ExitStack() as ending:

        def made() -> Made:
            source = InotifySource()
            directory = tmp_path / f"volume{len(os.listdir(tmp_path))}"
            directory.mkdir()
            source.start()
            ending.callback(source.stop)
            assert watched(source, directory)
            return source, directory

        yield made


@pytest.mark.parametrize("few", [1, 8])
def test_any_number_of_volumes_takes_a_few_instances(
    make: Callable[[], Made], few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than root has by default, 128. Each is told of its own changes alone."""
    monkeypatch.setattr(limits, "INOTIFY_INSTANCES_MAX", few)
    before, descriptors = instances(), len(os.listdir("/proc/self/fd"))
    made = [make() for _ in range(VOLUMES)]
    assert instances() == before + few
    assert len(os.listdir("/proc/self/fd")) == descriptors + 2 * few
    for number in (0, 7, VOLUMES - 1):
        (made[number][1] / "file").touch()
    changed = [number for number, (source, _) in enumerate(made) if source.pending()]
    assert changed == [0, 7, VOLUMES - 1]
    for source, _ in made:
        source.stop()
    assert (instances(), len(os.listdir("/proc/self/fd"))) == (before, descriptors)


def test_a_volume_that_ends_takes_its_watches_along_and_no_other_s(
    make: Callable[[], Made], shared: Watches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "INOTIFY_REMOVED_AT_ONCE", 3)
    ending, directory = make()
    staying, other = make()
    for number in range(20):
        (directory / f"d{number}").mkdir()
        watched(ending, directory / f"d{number}")
    held = len(shared)
    ending.stop()
    assert len(shared) == held - 21
    staying.drain()
    (directory / "file").touch()
    assert not staying.pending()
    (other / "file").touch()
    assert set(staying.drain().names[other.stat().st_ino]) == {b"file"}


def test_a_directory_taken_over_is_its_new_owner_s(make: Callable[[], Made]) -> None:
    """A volume that is opened anew before its old source has ended."""
    old, directory = make()
    new, _ = make()
    assert watched(new, directory)
    old.stop()
    (directory / "file").touch()
    assert directory.stat().st_ino in new.drain().names


def test_most_watches_are_left_to_others(
    make: Callable[[], Made], shared: Watches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "_number", lambda _path: 12 * limits.WATCHES_SHARE)
    made = [make() for _ in range(12)]
    assert shared.share == len(shared) == 12
    source, directory = made[0]
    (directory / "one-more").mkdir()
    with pytest.raises(UnsupportedError, match=r"12 directories .*fs\.inotify\.max_user_watches"):
        watched(source, directory / "one-more")
    made[-1][0].stop()
    assert watched(source, directory / "one-more")


def test_events_that_are_lost_widen_the_search_of_all(
    make: Callable[[], Made], shared: Watches
) -> None:
    queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    (busy, directory), (idle, _) = make(), make()
    with shared.lock:  # nobody reads
        for number in range(queue):
            (directory / f"f{number % 2}").touch()
    for source in (busy, idle):
        assert source.pending()
        dirty = source.drain()
        assert (dirty.everything, dirty.cause) == (True, "the inotify queue overflowed")


def test_a_look_reads_what_was_queued_when_it_began(
    make: Callable[[], Made], shared: Watches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However fast another volume's events come: here one with each that is read."""
    (_, directory), (idle, _) = make(), make()
    monkeypatch.setattr(limits, "INOTIFY_READ_BYTES", 64)
    handed = []
    hand_out = shared._hand_out

    def busy(event: object) -> None:
        handed.append(event)
        if len(handed) < 1000:
            (directory / f"f{len(handed)}").touch()
        hand_out(event)  # type: ignore[arg-type]

    monkeypatch.setattr(shared, "_hand_out", busy)
    with shared.lock:
        (directory / "first").touch()
        assert not idle.pending()
    assert 0 < len(handed) < 20
