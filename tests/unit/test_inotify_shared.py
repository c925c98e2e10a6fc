"""A few inotify instances for all volumes: what they take of the machine, and one costs others."""

from __future__ import annotations

import gc
import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper import limits
from diffkeeper.fsio import inotify as kernel
from diffkeeper.sources import inotify, watches
from diffkeeper.sources.inotify import InotifySource
from diffkeeper.sources.watches import Instances, Watches

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


def assert_refused(source: InotifySource, directory: Path) -> None:
    """It gets no watch, so that each drain has it compared."""
    assert watched(source, directory), "hints about it are gathered"
    assert not watched(source, directory), "it is to be looked at twice"
    inode = directory.stat().st_ino
    assert (source.complete, source.pending(), source.drain().compare) == (False, True, (inode,))


@pytest.fixture(autouse=True)
def shared(monkeypatch: pytest.MonkeyPatch) -> Watches:
    """The one instance that the sources of a test share."""
    monkeypatch.setattr("diffkeeper.sources.watches.INOTIFY_INSTANCES_MAX", 1)
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
    monkeypatch.setattr("diffkeeper.sources.watches.INOTIFY_INSTANCES_MAX", few)
    gc.collect()  # what a test before this one has left would be closed while it is counted
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
    monkeypatch.setattr(kernel, "limit", lambda _: 12 * limits.WATCHES_SHARE)
    made = [make() for _ in range(12)]
    assert watches.share() == len(shared) == 12
    source, directory = made[0]
    (directory / "one-more").mkdir()
    assert_refused(source, directory / "one-more")
    assert re.match(r"12 directories .*fs\.inotify\.max_user_watches", source.why_unwatched)
    made[-1][0].stop()
    source.drain()
    assert watched(source, directory / "one-more")
    assert (source.complete, source.drain().compare, source.why_unwatched) == (True, (), "")


def test_a_raised_limit_holds_at_once(
    make: Callable[[], Made], shared: Watches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "limit", lambda _: limits.WATCHES_SHARE)
    source, directory = make()
    (directory / "one-more").mkdir()
    assert_refused(source, directory / "one-more")
    monkeypatch.setattr(kernel, "limit", lambda _: 2 * limits.WATCHES_SHARE)
    source.drain()
    assert watched(source, directory / "one-more")
    assert len(shared) == 2


@pytest.mark.parametrize("name", ["fs.inotify.max_user_watches", "user.max_inotify_watches"])
def test_the_limit_that_binds_is_named(
    name: str, make: Callable[[], Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = limits.WATCHES_SHARE
    monkeypatch.setattr(kernel, "limit", lambda each: count if each == name else 10 * count)
    source, directory = make()
    (directory / "one-more").mkdir()
    assert_refused(source, directory / "one-more")
    assert f"a {count}th of {name}, and the rest" in source.why_unwatched


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
    monkeypatch.setattr("diffkeeper.fsio.inotify.INOTIFY_READ_BYTES", 64)
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
