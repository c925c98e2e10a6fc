"""Stores that leave little trace, one by one: each must be in the next snapshot."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from diffkeeper.freeze.writers import Writers
from diffkeeper.snapshot.policy import CapturePolicy
from diffkeeper.sources.ebpf.probe import Sources
from tests.support.capture_rig import CaptureRig
from tests.support.churn import syscalls
from tests.support.churn.actor import PAGE
from tests.support.churn.syscalls import READ, WRITE
from tests.support.containers import Container
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from diffkeeper.freeze.freezer import Freezer, Frozen

FILE_BYTES = 300_000
AT = 65_536


@pytest.fixture(scope="module")
def sources() -> Iterator[Sources]:
    """The real programs are compiled once."""
    made = Sources()
    if made.load():
        pytest.skip(made.load())
    yield made
    made.close()


@pytest.fixture
def rig(disk: Path, tmp_path: Path, sources: Sources) -> Iterator[CaptureRig]:
    """A rig whose volume lies on the disk."""
    live = disk / tmp_path.name
    with CaptureRig(tmp_path, CapturePolicy(source="ebpf"), sources, live=live) as made:
        assert made.watched.watcher.source.name == "ebpf", made.watched.watcher.reason
        yield made


def store(fd: int, at: int, data: bytes) -> None:
    """Through a mapping that comes and goes."""
    start = syscalls.mmap(fd, PAGE, READ | WRITE, at)
    syscalls.store(start + 100, data)
    syscalls.munmap(start, PAGE)


def check(rig: CaptureRig) -> None:
    """The next snapshot is what is on disk."""
    replayed = rig.replay(rig.capture(), f"replayed-{os.urandom(4).hex()}")
    assert difference(describe(rig.live), describe(replayed)) == []


@pytest.mark.parametrize("beside", [0, PAGE, AT], ids=["page", "next page", "next chunk"])
@pytest.mark.parametrize("synced", [True, False], ids=["synced", "dirty"])
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
def test_a_store_beside_what_was_written(
    rig: CaptureRig, beside: int, synced: bool, closed: bool
) -> None:
    """The page, or the large folio that it is part of, may be dirty: no fault tells then."""
    path = rig.live / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    os.pwrite(fd, b"x" * FILE_BYTES, 0)
    os.fsync(fd)
    rig.capture()
    os.pwrite(fd, b"written", AT + 10)
    rig.capture()
    if synced:
        os.fsync(fd)
    store(fd, AT + beside, b"stored")
    if closed:
        os.close(fd)
    check(rig)
    if not closed:
        os.close(fd)


@pytest.mark.parametrize("source", ["inotify", "scan", "ebpf"])
def test_a_store_to_a_file_whose_first_name_left_with_its_directory(
    source: str, disk: Path, tmp_path: Path, sources: Sources
) -> None:
    """It is mapped all the while, and has another name that stays."""
    live = disk / tmp_path.name
    writers = Writers(pids=(os.getpid(),))
    with CaptureRig(tmp_path, CapturePolicy(source=source), sources, live=live) as rig:
        for name in ("gone", "kept"):
            (live / name).mkdir()
        (live / "gone" / "first").write_bytes(b"x" * FILE_BYTES)
        os.link(live / "gone" / "first", live / "kept" / "second")
        with open(live / "gone" / "first", "r+b") as file:
            start = syscalls.mmap(file.fileno(), PAGE, READ | WRITE)
        rig.capture_of("manual", writers)
        os.rename(live / "gone", disk / f"{tmp_path.name}-outside")
        rig.capture_of("manual", writers)
        syscalls.store(start, b"stored")
        rig.capture_of("manual", writers)
        syscalls.munmap(start, PAGE)
        head = rig.state.head
        assert head is not None
        replayed = rig.replay(head, "replayed")
        assert (replayed / "kept" / "second").read_bytes()[:6] == b"stored"


class LateFreezer:
    """The real freezer; something is done before each freeze, when the volume was looked at."""

    def __init__(self, real: Freezer) -> None:
        self._real = real
        self.before: Callable[[], object] = lambda: None

    @contextlib.contextmanager
    def frozen(self, cgroups: Sequence[str], limit_seconds: float) -> Iterator[Frozen]:
        """As the real one."""
        self.before()
        with self._real.frozen(cgroups, limit_seconds) as frozen:
            yield frozen


@pytest.fixture
def freezer(rig: CaptureRig, tmp_path: Path) -> Iterator[LateFreezer]:
    """The rig's, while a container has the volume."""
    made = LateFreezer(rig.context.freezer)
    rig.context.freezer = made  # type: ignore[assignment]  # the real one inside
    with Container() as container:
        container.start({rig.live: tmp_path / "inside"}, "sleep 600")
        yield made
    rig.context.freezer = made._real


def read_back(rig: CaptureRig, path: str) -> bytes:
    """A file of the newest snapshot, which was frozen."""
    head = rig.state.head
    assert head is not None
    assert head.freeze_ms > 0
    return (rig.replay(head, "replayed") / path).read_bytes()


def test_a_write_to_a_file_that_was_away(
    rig: CaptureRig, freezer: LateFreezer, disk: Path, tmp_path: Path
) -> None:
    """It had no name in one capture, and has the same signature when it is back in the next."""
    outside = disk / f"{tmp_path.name}-outside"
    outside.mkdir()
    (rig.live / "one").mkdir()
    with open(rig.live / "one" / "file", "w+b", buffering=0) as file:
        file.write(b"x" * FILE_BYTES)
        os.link(rig.live / "one" / "file", outside / "link")
        rig.capture()
        os.rename(rig.live / "one", outside / "one")
        os.fsync(file.fileno())  # changes the inode, and nothing that a signature has
        rig.capture()
        os.rename(outside / "one", rig.live / "one")
        (rig.live / "new").touch()
        freezer.before = lambda: os.pwrite(file.fileno(), b"late", AT)
        rig.capture()
        assert read_back(rig, "one/file")[AT : AT + 4] == b"late"


def test_a_write_when_the_first_name_has_just_left(
    rig: CaptureRig, freezer: LateFreezer, disk: Path, tmp_path: Path
) -> None:
    """Its directory left after the volume was looked at, and before the freeze."""
    for name in ("gone", "kept"):
        (rig.live / name).mkdir()
    with open(rig.live / "gone" / "first", "w+b", buffering=0) as file:
        file.write(b"x" * FILE_BYTES)
        rig.capture()
        os.link(rig.live / "gone" / "first", rig.live / "kept" / "second")
        rig.capture()

        def leave() -> None:
            os.rename(rig.live / "gone", disk / f"{tmp_path.name}-outside")
            os.pwrite(file.fileno(), b"late", AT)

        (rig.live / "new").touch()
        freezer.before = leave
        rig.capture()
        assert read_back(rig, "kept/second")[AT : AT + 4] == b"late"
