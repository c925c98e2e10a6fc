"""The eBPF source on the real kernel: what each kind of change marks, and a lack of room."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper import clock, limits
from diffkeeper.errors import UnsupportedError
from diffkeeper.fsio import mountinfo
from diffkeeper.snapshot.policy import CapturePolicy
from diffkeeper.snapshot.volume_capture import VolumeCapture
from diffkeeper.sources.base import Changed, Dirty
from diffkeeper.sources.ebpf import maps, tracing
from diffkeeper.sources.ebpf.ebpf_source import EbpfSource
from diffkeeper.sources.ebpf.probe import Sources
from diffkeeper.sources.ebpf.program import Program
from diffkeeper.sources.ladder import VolumePlace
from tests.support import disks, exchanges
from tests.support.capture_rig import CaptureRig
from tests.support.namespaces import in_namespace
from tests.support.odd import leased
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BITS = 16
CHUNK = 1 << BITS
SIZE = 16 * CHUNK
PUNCH, ZERO, COLLAPSE, INSERT, KEEP_SIZE = 2, 16, 8, 32, 1

_libc = ctypes.CDLL(None, use_errno=True)


def loaded() -> Program:
    try:
        return Program.load()
    except UnsupportedError as error:
        pytest.skip(f"no eBPF: {error}")


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    """The real programs, in the kernel."""
    made = loaded()
    yield made
    made.close()


@pytest.fixture(scope="module")
def program_without_faults() -> Iterator[Program]:
    """As on a kernel that tells no page faults, such as 6.1."""
    with pytest.MonkeyPatch.context() as patch:
        usable = tracing.usable
        patch.setattr(tracing, "usable", lambda e: "filemap" not in e and usable(e))
        made = loaded()
    assert not made.faults
    yield made
    made.close()


@pytest.fixture
def source(program: Program, disk: Path) -> Iterator[EbpfSource]:
    made = EbpfSource(program, disk.stat().st_dev, BITS)
    made.start()
    yield made
    made.stop()


def fallocate(fd: int, mode: int, start: int, length: int) -> None:
    assert _libc.fallocate(fd, mode, ctypes.c_long(start), ctypes.c_long(length)) == 0


def direct_write(fd: int, start: int) -> None:
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_DIRECT)
    block = mmap.mmap(-1, 4096)
    block.write(b"d" * 4096)
    os.pwritev(again, [block], start)
    os.close(again)


def store(fd: int, start: int) -> None:
    with mmap.mmap(fd, SIZE) as memory:
        memory[start] = 1


def copy(fd: int, start: int) -> None:
    with open("/etc/passwd", "rb") as other:
        os.lseek(fd, start, os.SEEK_SET)
        os.sendfile(fd, other.fileno(), 0, 100)


def splice(fd: int, start: int) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"s" * 100)
    os.splice(reading, fd, 100, offset_dst=start)
    os.close(reading)
    os.close(writing)


PARTS: list[tuple[str, Callable[[int], object], set[int]]] = [
    ("write", lambda fd: os.pwrite(fd, b"w", 3 * CHUNK), {3}),
    ("write across chunks", lambda fd: os.pwrite(fd, b"w" * CHUNK, 3 * CHUNK + 1), {3, 4}),
    ("direct I/O", lambda fd: direct_write(fd, 5 * CHUNK), {5}),
    ("sendfile", lambda fd: copy(fd, 7 * CHUNK), {7}),
    ("splice", lambda fd: splice(fd, 8 * CHUNK), {8}),
]


@pytest.mark.parametrize(("do", "parts"), [p[1:] for p in PARTS], ids=[p[0] for p in PARTS])
def test_parts_that_are_marked(
    source: EbpfSource, disk: Path, do: Callable[[int], object], parts: set[int]
) -> None:
    changed = marked(source, disk, do)
    assert changed is not None
    assert (changed.whole, changed.chunks) == (False, parts)


WHOLE: list[tuple[str, Callable[[int], object]]] = [
    ("truncate", lambda fd: os.ftruncate(fd, SIZE // 2)),
    ("collapse", lambda fd: fallocate(fd, COLLAPSE, CHUNK, CHUNK)),
    ("insert", lambda fd: fallocate(fd, INSERT, CHUNK, CHUNK)),
]


@pytest.mark.parametrize("do", [w[1] for w in WHOLE], ids=[w[0] for w in WHOLE])
def test_files_that_are_marked(source: EbpfSource, disk: Path, do: Callable[[int], object]) -> None:
    changed = marked(source, disk, do)
    assert changed is not None
    assert changed.whole


@pytest.mark.parametrize("mode", [PUNCH | KEEP_SIZE, ZERO], ids=["punch", "zero"])
def test_holes_and_zeros(source: EbpfSource, disk: Path, mode: int) -> None:
    changed = marked(source, disk, lambda fd: fallocate(fd, mode, 2 * CHUNK, CHUNK))
    assert changed is not None
    assert changed.whole or changed.chunks == {2}


def test_a_longer_file_is_to_be_looked_at(source: EbpfSource, disk: Path) -> None:
    assert marked(source, disk, lambda fd: os.ftruncate(fd, 2 * SIZE)) is not None


def test_a_timestamp_that_moves_alone_is_looked_at(source: EbpfSource, disk: Path) -> None:
    """A fault for storing moves it, also where the page is dirty already."""
    path = disk / "touched"
    path.write_bytes(b"x" * SIZE)
    number = path.stat().st_ino
    source.watch_new([number])
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, SIZE) as memory:
        os.pwrite(fd, b"dirty", 0)
        assert memory[0] == ord("d")
        source.drain(frozen=True)
        before = os.fstat(fd).st_mtime_ns
        time.sleep(0.02)  # for another timestamp
        memory[0] = memory[0]
    os.close(fd)
    assert path.stat().st_mtime_ns > before
    assert number in source.drain(frozen=True).files


def test_a_store_marks_its_window_once(source: EbpfSource, disk: Path) -> None:
    path = disk / "mapped"
    path.write_bytes(b"x" * SIZE)
    os.sync()
    number = path.stat().st_ino
    source.watch_new([number])
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, SIZE) as memory:
        for value in (1, 2):
            memory[9 * CHUNK] = value
            assert source.drain().files[number].windows == {0}
            memory[9 * CHUNK] = value + 2
            assert not source.drain().files.get(number, Changed()).windows
            os.fsync(fd)
    os.close(fd)


def marked(source: EbpfSource, disk: Path, do: Callable[[int], object]) -> Changed | None:
    path = disk / "file"
    path.unlink(missing_ok=True)
    path.write_bytes(b"x" * SIZE)
    os.sync()
    number = path.stat().st_ino
    source.watch_new([number])
    source.drain(frozen=True)
    assert not source.pending()
    fd = os.open(path, os.O_RDWR)
    do(fd)
    os.close(fd)
    assert source.pending()
    return source.drain(frozen=True).files.get(number)


def test_a_file_that_takes_a_number_over_is_not_held(source: EbpfSource, disk: Path) -> None:
    path = disk / "first"
    path.write_bytes(b"first")
    number = path.stat().st_ino
    assert not source.all_seen(number)
    source.mark_read([number])
    assert source.all_seen(number)
    path.unlink()
    os.sync()
    found = Changed()
    for _ in range(100):
        found.merge(source.drain().files.get(number, Changed()))
        if not source.all_seen(number):
            break
        subprocess.run(["sync"], check=True)
    assert found.whole
    assert not source.all_seen(number)


def test_what_is_not_watched_when_it_is_settled_is_not_held(source: EbpfSource, disk: Path) -> None:
    """What was released, or lost, between the look and its taking over may have changed unseen."""
    path = disk / "file"
    path.write_bytes(b"x")
    number = path.stat().st_ino
    source.watch_new([number])
    source.release([number])
    source.mark_read([number])
    assert not source.all_seen(number)
    source.escalate("lost")
    source.mark_read([number])
    assert not source.all_seen(number)
    source.mark_read([number])
    assert source.all_seen(number)


def test_direct_io_without_an_end_is_told_in_each_freeze(
    program: Program, source: EbpfSource, disk: Path
) -> None:
    """Until it has surely ended; where the kernel tells the end, that is told and no more."""
    path = disk / "direct"
    path.write_bytes(b"x" * SIZE)
    os.sync()
    number = path.stat().st_ino
    source.watch_new([number])
    source.drain(frozen=True)
    fd = os.open(path, os.O_RDWR)
    direct_write(fd, 5 * CHUNK)
    os.close(fd)
    assert source.drain().files[number].chunks == {5}
    expected = set() if program.direct_end else {5}
    for _ in range(2):
        assert source.drain(frozen=True).files.get(number, Changed()).chunks == expected
        assert not source.drain(frozen=True).files, "a freeze ends after its first look"
        assert not source.drain().files


def test_content_that_moves_is_looked_at_again(
    source: EbpfSource, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is not frozen may still be about it, though all that is known is that it has begun."""
    now = [time.monotonic()]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    path = disk / "moving"
    path.write_bytes(b"x" * SIZE)
    os.sync()
    number = path.stat().st_ino
    source.watch_new([number])
    source.drain(frozen=True)
    with open(path, "r+b") as file:
        fallocate(file.fileno(), PUNCH | KEEP_SIZE, 2 * CHUNK, CHUNK)

    def moved(*, frozen: bool = False) -> bool:
        found = source.drain(frozen=frozen).files.get(number, Changed())
        return found.whole or found.chunks == {2}

    assert moved()
    assert moved(frozen=True), "a frozen process has ended it now"
    for second in range(40):
        assert not moved(frozen=True), "more looks in freezes tell nothing"
        due = source.pending()
        assert due == moved() == (second in (2, 30)), second
        now[0] += 1.0


def test_a_hole_that_is_punched_after_the_look_of_a_freeze(
    program: Program, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was not frozen: the mark was there, and its effect was not."""
    now = [time.monotonic()]
    base = disk / "late"
    base.mkdir()
    with CaptureRig(base, CapturePolicy(source="ebpf"), Sources.of(program)) as rig:
        path = rig.live / "file"
        path.write_bytes(b"x" * SIZE)
        os.sync()
        rig.capture()
        source = rig.watched.watcher.source
        assert isinstance(source, EbpfSource)
        number = path.stat().st_ino
        with open(path, "r+b") as file:
            fallocate(file.fileno(), PUNCH | KEEP_SIZE, 2 * CHUNK, 4096)
            rig.capture()
            # Unseen, as that of an operation that was marked when it began.
            program.unwatch(source._number, [number])
            fallocate(file.fileno(), PUNCH | KEEP_SIZE, 2 * CHUNK + 8192, 4096)
            program.watch(source._number, rig.policy.chunk_bits, [number], held=True)
        monkeypatch.setattr(clock, "monotonic", lambda: now[0] + limits.STARTED_SECONDS)
        last = rig.capture()
        assert last.consistency == "crash"
        assert difference(describe(rig.live), describe(rig.replay(last, "last"))) == []


@pytest.mark.parametrize("way", ["exchange", "swap"])
def test_content_that_two_files_exchange(program: Program, way: str, tmp_path: Path) -> None:
    with (
        disks.file_system("xfs", tmp_path, 400 * limits.MIB, exchanges.allow_exchange) as base,
        CaptureRig(base, CapturePolicy(source="ebpf"), Sources.of(program)) as rig,
    ):
        if rig.watched.watcher.source.name != "ebpf":
            pytest.skip(rig.watched.watcher.reason)
        first, second = rig.live / "first", rig.live / "second"
        for path in (first, second):
            path.write_bytes(path.name.encode() * 10_000)
            os.truncate(path, CHUNK // 2)
        os.sync()
        rig.capture()
        assert rig.capture() == rig.state.head
        before = first.read_bytes()
        if way == "swap":
            done = subprocess.run(["xfs_io", "-c", f"swapext {second}", str(first)], check=True)
            assert done.returncode == 0
        elif not exchanges.exchange(first, second, CHUNK // 2):
            pytest.skip("the kernel exchanges no ranges")
        assert second.read_bytes() == before
        last = rig.capture()
        assert difference(describe(rig.live), describe(rig.replay(last, "last"))) == []


def test_direct_io_begun_before_a_file_is_watched(
    program: Program, source: EbpfSource, disk: Path
) -> None:
    """Where the kernel does not tell its end it may still be under way."""
    path = disk / "before"
    path.write_bytes(b"x" * SIZE)
    os.sync()
    fd = os.open(path, os.O_RDWR)
    direct_write(fd, 5 * CHUNK)
    os.close(fd)
    number = path.stat().st_ino
    source.watch_new([number])
    assert source.drain().files.get(number, Changed()).whole == (not program.direct_end)


def test_a_mark_of_a_number_given_up_hides_none(source: EbpfSource, disk: Path) -> None:
    """It may stay in the kernel's map for as long as nothing else is marked."""
    path = disk / "given-up"
    path.write_bytes(b"x" * SIZE)
    number = path.stat().st_ino
    source.watch_new([number])
    os.truncate(path, SIZE - 1)
    with open(path, "r+b") as file:
        file.write(b"before")
    source.escalate("a capture failed")
    source.watch_new([number])
    source.drain(frozen=True)
    os.truncate(path, SIZE - 2)
    with open(path, "r+b") as file:
        file.write(b"after")
    assert source.pending()
    changed = source.drain().files[number]
    assert (changed.whole, changed.chunks) == (True, {0})


def test_files_outside_are_not_marked(source: EbpfSource, disk: Path) -> None:
    (disk / "other").write_bytes(b"other")
    assert source.drain().files == {}


@pytest.mark.parametrize(("chunks", "files"), [(4, 1_000), (4, 1)])
def test_without_room(monkeypatch: pytest.MonkeyPatch, disk: Path, chunks: int, files: int) -> None:
    """A chunk without room marks its file, a file its volume; nothing is missed."""
    monkeypatch.setattr(maps, "EBPF_CHUNKS_MAX", chunks)
    monkeypatch.setattr(maps, "EBPF_FILES_MAX", files)
    program = loaded()
    base = disk / f"room-{chunks}-{files}"
    base.mkdir()
    try:
        with CaptureRig(base, CapturePolicy(source="ebpf"), Sources.of(program)) as rig:
            assert rig.watched.watcher.source.name == "ebpf"
            for number in range(30):
                (rig.live / f"f{number}").write_bytes(bytes([number]) * 5 * CHUNK)
            rig.capture()
            for turn in range(3):
                for number in range(30):
                    with open(rig.live / f"f{number}", "r+b") as file:
                        for at in range(5):
                            file.seek(at * CHUNK + turn)
                            file.write(b"new")
                snapshot = rig.capture()
                replayed = rig.replay(snapshot, f"r{turn}")
                assert difference(describe(rig.live), describe(replayed)) == []
            counts = program.counts()
            assert counts["full_files"] > 0
            assert (counts["full_volumes"] > 0) == (files == 1)
    finally:
        program.close()


def test_one_page_of_a_large_file(program: Program, disk: Path) -> None:
    """Read and stored is the chunk, whatever the file's size."""
    base = disk / "large"
    base.mkdir()
    with CaptureRig(base, CapturePolicy(source="ebpf"), Sources.of(program)) as rig:
        path = rig.live / "large"
        with open(path, "wb") as file:
            file.truncate(200 * limits.GIB)
            file.seek(150 * limits.GIB)
            file.write(b"x" * 4 * CHUNK)
        rig.capture()
        with open(path, "r+b") as file:
            file.seek(150 * limits.GIB + CHUNK)
            file.write(os.urandom(CHUNK))
        snapshot = rig.capture()
        assert CHUNK <= snapshot.new_bytes < 2 * CHUNK
        replayed = rig.replay(snapshot, "replayed")
        with open(replayed / "large", "rb") as file, open(path, "rb") as live:
            for opened in (file, live):
                opened.seek(150 * limits.GIB)
            assert file.read(4 * CHUNK) == live.read(4 * CHUNK)


def test_what_changed_in_a_file_that_could_not_be_read(program: Program, disk: Path) -> None:
    """Its marks were taken, so that it is read as a whole when it can be."""
    base = disk / "leased"
    base.mkdir()
    with CaptureRig(base, CapturePolicy(source="ebpf"), Sources.of(program)) as rig:
        path = rig.live / "leased"
        path.write_bytes(os.urandom(8 * CHUNK))
        first = rig.capture()
        assert rig.capture() == first
        with open(path, "r+b") as file:
            file.seek(3 * CHUNK)
            file.write(b"changed")
        before = path.stat().st_mtime_ns
        with leased(path):
            snapshot = rig.capture("interval")
            assert (snapshot.consistency, snapshot.root) == ("fuzzy", first.root)
            assert "'leased'" in snapshot.cause
            assert rig.capture("interval") == snapshot
            assert not rig.watched.pending(rig.writers())
        os.utime(path, ns=(before, before))
        last = rig.capture()
        assert (last.consistency, last.cause) == ("crash", "")
        assert difference(describe(rig.live), describe(rig.replay(last, "last"))) == []


@pytest.mark.parametrize("at", [0, 7 * CHUNK], ids=["in the page", "in the large page"])
def test_a_store_into_what_was_written_before(program: Program, disk: Path, at: int) -> None:
    """The page is dirty by a write that was captured; the mapping is gone before the next one."""
    base = disk / f"beside-{at}"
    base.mkdir()
    with CaptureRig(base, CapturePolicy(source="ebpf"), Sources.of(program)) as rig:
        fd = os.open(rig.live / "file", os.O_RDWR | os.O_CREAT)
        os.pwrite(fd, b"x" * SIZE, 0)
        rig.capture()
        for turn in range(3):
            os.pwrite(fd, b"%d" % turn * SIZE, 0)
            rig.capture()
            with mmap.mmap(fd, SIZE) as memory:
                memory[at + 100 : at + 105] = b"stored"[:5]
            replayed = rig.replay(rig.capture(), f"r{turn}")
            assert difference(describe(rig.live), describe(replayed)) == []
        os.close(fd)


@pytest.mark.parametrize("order", ["store, write", "write, store"])
def test_a_store_before_a_write_in_the_same_unit(
    program_without_faults: Program, disk: Path, order: str
) -> None:
    """By one thread, through a mapping that is gone before the next capture; no fault tells."""
    base = disk / f"unit-{order[:5]}"
    base.mkdir()
    with CaptureRig(base, CapturePolicy(source="ebpf"), Sources.of(program_without_faults)) as rig:
        fd = os.open(rig.live / "file", os.O_RDWR | os.O_CREAT)
        os.pwrite(fd, b"x" * SIZE, 0)
        rig.capture()
        for turn in range(3):
            os.fsync(fd)
            for step in order.split(", "):
                if step == "write":
                    os.pwrite(fd, b"%d" % turn * CHUNK, 8 * CHUNK)
                else:
                    with mmap.mmap(fd, SIZE) as memory:
                        memory[100:106] = b"store%d" % turn
            replayed = rig.replay(rig.capture(), f"r{turn}")
            assert difference(describe(rig.live), describe(replayed)) == []
        os.close(fd)


def test_a_file_that_is_what_it_was_stays_watched(program: Program, disk: Path) -> None:
    """Its signature is news, its entry is none: what waits to be stored of it is stored already."""
    base = disk / "same"
    base.mkdir()
    with CaptureRig(base, CapturePolicy(source="ebpf"), Sources.of(program)) as rig:
        path = rig.live / "directory" / "file"
        path.parent.mkdir()
        # It stays open, so that no close hints at its name.
        with open(path, "w+b", buffering=0) as file:
            file.write(os.urandom(CHUNK))
            file.truncate(SIZE)
            rig.capture()
            before = path.stat()
            fallocate(file.fileno(), PUNCH | KEEP_SIZE, 4 * CHUNK, CHUNK)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            rig.capture()
            file.write(b"changed")
            replayed = rig.replay(rig.capture(), "replayed")
            assert difference(describe(rig.live), describe(replayed)) == []


def test_a_file_that_changes_while_it_is_outside(program: Program, disk: Path) -> None:
    """Both its names left the volume with their directories, and come back after a capture."""
    base, outside = disk / "linked", disk / "beside"
    base.mkdir()
    outside.mkdir()
    with CaptureRig(base, CapturePolicy(source="ebpf"), Sources.of(program)) as rig:
        one, other = rig.live / "one", rig.live / "other"
        one.mkdir()
        other.mkdir()
        with open(one / "name", "w+b", buffering=0) as file:
            file.write(os.urandom(SIZE))
            os.link(one / "name", other / "link")
            rig.capture()
            rig.capture()
            os.pwrite(file.fileno(), b"inside", 2 * CHUNK)
            for directory in (one, other):
                directory.rename(outside / directory.name)
            os.pwrite(file.fileno(), b"outside", 3 * CHUNK)
            rig.capture()
            for directory in (one, other):
                (outside / directory.name).rename(directory)
            os.pwrite(file.fileno(), b"inside", 4 * CHUNK)
            replayed = rig.replay(rig.capture(), "replayed")
            assert difference(describe(rig.live), describe(replayed)) == []


def test_a_store_that_was_seen_before_it_was_told(program: Program, disk: Path) -> None:
    """A look finds the timestamp of the store already; only the next drain tells the mapping."""
    base = disk / "told-late"
    base.mkdir()
    with CaptureRig(base, CapturePolicy(source="ebpf"), Sources.of(program)) as rig:
        fd = os.open(rig.live / "file", os.O_RDWR | os.O_CREAT)
        os.pwrite(fd, b"x" * SIZE, 0)
        rig.capture()
        os.pwrite(fd, b"y" * SIZE, 0)
        rig.capture()
        source = rig.watched.watcher.source
        drain, stored = source.drain, False

        def drain_and_store(*, frozen: bool = False) -> Dirty:
            nonlocal stored
            dirty = drain(frozen=frozen)
            if not stored:
                stored = True
                with mmap.mmap(fd, SIZE) as memory:
                    memory[100] = 0
                time.sleep(0.05)  # for a timestamp that proves something
            return dirty

        source.drain = drain_and_store  # type: ignore[method-assign]  # the real one inside
        os.fchmod(fd, 0o600)
        rig.capture()
        replayed = rig.replay(rig.capture(), "replayed")
        assert difference(describe(rig.live), describe(replayed)) == []
        os.close(fd)


STORES = """
import mmap, os, sys
def say(word):
    print(word, flush=True)
    sys.stdin.readline()
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.pwrite(fd, b"x" * 262144, 0)
say("created")
memory = mmap.mmap(fd, 8192)
memory[0] = 1
say("mapped")
memory[1] = 1
memory.close()
say("unmapped")
"""


class Child:
    """A process in a mount namespace of its own, which goes on when it is told to."""

    def __init__(self, live: Path, mount: Path) -> None:
        mount.mkdir()
        script = f"mount --bind {live} {mount} && exec {sys.executable} -c '{STORES}' {mount}/file"
        self.process = subprocess.Popen(
            in_namespace(script), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.hears("created")

    def hears(self, word: str) -> None:
        """Wait until it says so."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{word}\n"

    def goes_on(self, word: str) -> None:
        """Let it go on until it says so."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.hears(word)


def test_a_mapping_from_before_its_file_was_watched(program: Program, disk: Path) -> None:
    """Unknown when the capture began, there when the new file is read, gone before the end."""
    base = disk / "before-watched"
    base.mkdir()
    with CaptureRig(base, CapturePolicy(source="ebpf"), Sources.of(program)) as rig:
        rig.capture()
        child = Child(rig.live, base / "mount")
        precopy = VolumeCapture.precopy

        def mapped_meanwhile(capture: VolumeCapture) -> None:
            child.goes_on("mapped")
            precopy(capture)
            child.goes_on("unmapped")

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(VolumeCapture, "precopy", mapped_meanwhile)
            rig.capture()
        child.process.communicate("\n", timeout=20)
        replayed = rig.replay(rig.capture(), "replayed")
        assert difference(describe(rig.live), describe(replayed)) == []


def test_reading_through_a_mapping_reads_nothing_again(program: Program, disk: Path) -> None:
    base = disk / "read"
    base.mkdir()
    with CaptureRig(base, CapturePolicy(source="ebpf"), Sources.of(program)) as rig:
        (rig.live / "file").write_bytes(b"x" * SIZE)
        time.sleep(0.05)  # for timestamps that prove something
        first = rig.capture()
        with open(rig.live / "file", "rb") as file:
            with mmap.mmap(file.fileno(), SIZE, mmap.MAP_SHARED, mmap.PROT_READ) as memory:
                assert memory[SIZE - 1] == ord("x")
            before = bytes_read()
            assert rig.capture() == first
            assert bytes_read() - before < SIZE // 2


def bytes_read() -> int:
    """What this process has read from anywhere."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.fixture
def partitions(tmp_path: Path) -> Iterator[list[Path]]:
    """Two ext4 file systems on partitions of one disk."""
    image = tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(200 * limits.MIB)
    run = functools.partial(subprocess.run, check=True, capture_output=True, text=True)
    run(["sfdisk", "-q", str(image)], input="label: gpt\nsize=90MiB\nsize=90MiB\n")
    disk = run(["losetup", "--find", "--show", str(image)]).stdout.strip()
    mounted = []
    try:
        run(["partx", "--add", disk])
        for number in (1, 2):
            partition = Path(f"{disk}p{number}")
            run(["mkfs.ext4", "-q", str(partition)])
            mounted.append(tmp_path / f"disk{number}")
            mounted[-1].mkdir()
            run(["mount", str(partition), str(mounted[-1])])
        yield mounted
    finally:
        for mount in mounted:
            run(["umount", "--lazy", str(mount)])
        run(["partx", "--delete", disk])
        run(["losetup", "--detach", disk])


def test_stores_on_partitions_are_marked(program: Program, partitions: list[Path]) -> None:
    """The kernel names the disk of a page, not the partition; inode numbers are alike on both."""
    sources = [EbpfSource(program, mount.stat().st_dev, BITS) for mount in partitions]
    paths = [mount / "file" for mount in partitions]
    for source, path in zip(sources, paths, strict=True):
        path.write_bytes(b"x" * SIZE)
        source.start()
        source.watch_new([path.stat().st_ino])
    os.sync()
    for source in sources:
        source.drain()
    for source, path in zip(sources, paths, strict=True):
        with open(path, "r+b") as file:
            store(file.fileno(), 9 * CHUNK)
        assert source.drain().files[path.stat().st_ino].windows == {0}
        source.stop()


def test_a_file_system_without_ranges_falls_back(program: Program) -> None:
    place = VolumePlace(os.stat("/dev/shm").st_dev, mountinfo.locate("/dev/shm")[2], BITS)
    choice = Sources.of(program).choose("ebpf", place)
    choice.source.stop()
    assert choice.source.name == "inotify"
    assert "tells no ranges" in choice.reason


def test_without_headers_it_falls_back() -> None:
    sources = Sources("/nonexistent")
    choice = sources.choose("ebpf", VolumePlace(os.stat("/").st_dev, "ext4", BITS))
    choice.source.stop()
    assert choice.source.name == "inotify"
    assert choice.reason.startswith("no eBPF: ")


def test_a_look_while_another_thread_renews_or_stops_the_source_is_answered(
    source: EbpfSource, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the worst moments: a number is closed, and the source still has it, or has none."""
    close, looks = program.close_volume, list[bool]()

    def closing(number: int, *, forget: bool) -> None:
        close(number, forget=forget)
        looks.append(source.pending())
        assert program.pending(number), "unsure is to be looked at"

    monkeypatch.setattr(program, "close_volume", closing)
    source.escalate("a test")
    source.stop()
    source.pending()
    assert len(looks) == 2
