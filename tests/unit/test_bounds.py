"""What a capture holds in memory, and does at all, is bounded whatever a volume looks like."""

from __future__ import annotations

import os
import subprocess
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from diffkeeper import failpoint, limits
from diffkeeper.errors import FreezeError
from diffkeeper.format import filetree
from diffkeeper.format.entry import EMPTY, Entry, Kind
from diffkeeper.fsio import inode, linux
from diffkeeper.fsio.descent import DESCENT_STEP, Descent
from diffkeeper.hashing import node_digest
from diffkeeper.integrity.verify import Verifier
from diffkeeper.snapshot.chunker import HASH_THREADS, SEGMENT_BYTES, Chunker, Content
from diffkeeper.snapshot.name_scanner import NameScanner
from diffkeeper.snapshot.policy import CapturePolicy
from diffkeeper.snapshot.worktree import Directory
from tests.support.capture_rig import CaptureRig
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BITS = 12
CHUNK = 1 << BITS


@pytest.fixture
def reader() -> Iterator[Chunker]:
    made = Chunker()
    yield made
    made.close()


class Nodes(dict[bytes, bytes]):
    """Nodes by digest."""

    def put(self, encoded: bytes) -> bytes:
        digest = node_digest(encoded)
        self[digest] = encoded
        return digest


def recorded(nodes: Nodes, count: int) -> Entry:
    """A file of so many chunks that are not zero."""
    refs = {number: number.to_bytes(32, "big") for number in range(1, count)}
    refs[0] = b"\xff" * 32
    root = filetree.update(EMPTY, 0, count, refs, nodes.__getitem__, nodes.put)
    return Entry(Kind.FILE, size=count * CHUNK, content=root, chunk_bits=BITS)


@pytest.mark.parametrize("size", [0, 1], ids=["holes alone", "then data"])
def test_a_file_that_became_holes(size: int, reader: Chunker, tmp_path: Path) -> None:
    """Its chunks are forgotten in parts."""
    nodes, most = Nodes(), 0
    count = 3 * limits.CONTENT_CHANGES_MAX
    old = recorded(nodes, count)

    def spill(content: Content) -> None:
        nonlocal most
        most = max(most, len(content.changes))
        content.data.clear()
        content.data_bytes = 0
        content.fold(nodes.__getitem__, nodes.put)

    with open(tmp_path / "holes", "w+b") as file:
        file.truncate(old.size)
        os.pwrite(file.fileno(), b"x" * size, old.size - CHUNK)
        content = reader.read(file.fileno(), old.size, BITS, old, nodes.__getitem__, spill)
    spill(content)
    assert most <= limits.CONTENT_CHANGES_MAX + (SEGMENT_BYTES >> BITS)
    found = [number for number, _ in filetree.runs(content.root, count, nodes.__getitem__)]
    assert found == [count - 1][:size]


def test_a_verification_of_a_file_that_became_holes(tmp_path: Path) -> None:
    """One difference is enough: the rest is not looked for."""
    with CaptureRig(tmp_path, CapturePolicy(source="scan", chunk_bits=BITS)) as rig:
        path = rig.live / "file"
        path.write_bytes(os.urandom(64 * CHUNK))
        snapshot = rig.capture()
        status = path.stat()
        with open(path, "r+b") as file:
            file.truncate(CHUNK)
            file.truncate(64 * CHUNK)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        verifier = Verifier(rig.store, rig.reader)
        found = verifier.live(str(rig.live), snapshot.root).mismatches
        assert [each.problem for each in found] == [f"content differs from byte {CHUNK}"]


def test_a_freeze_that_is_over_ends_the_reading(
    reader: Chunker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads on after the guard has thawed takes time and processors from the writers."""
    path = tmp_path / "large"
    path.write_bytes(bytes(1) + os.urandom(1) * (64 * limits.MIB))
    reads = 0
    real = inode.read_exactly

    def counted(fd: int, view: memoryview, offset: int) -> int:
        nonlocal reads
        reads += 1
        return real(fd, view, offset)

    monkeypatch.setattr(inode, "read_exactly", counted)
    left = 3

    def check() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise FreezeError("over")

    with open(path, "rb") as file, pytest.raises(FreezeError, match="over"):
        reader.read(
            file.fileno(), path.stat().st_size, 14, None, Nodes().__getitem__, lambda _: None, check
        )
    assert reads <= left + 3 + 2 * HASH_THREADS


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many names the kernel was asked to walk, in its one item."""
    total = [0]
    real = linux._openat2

    def counted(directory: int, path: bytes, flags: int) -> int:
        total[0] += path.count(b"/") + 1
        return real(directory, path, flags)

    monkeypatch.setattr(linux, "_openat2", counted)
    return total


def nested(top: Path, depth: int, leaves: int) -> None:
    """A chain of directories, each with so many others beside the next one."""
    fd = os.open(top, os.O_RDONLY)
    for number in range(depth):
        for name in [b"d", *(b"leaf%d" % n for n in range(leaves))]:
            os.mkdir(name, dir_fd=fd)
        following = os.open(b"d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = following
        if number % 100 == 0:
            file = os.open(b"file", os.O_WRONLY | os.O_CREAT, dir_fd=fd)
            os.write(file, b"x")
            os.close(file)
    os.close(fd)


def test_what_a_first_capture_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files that it is done with neither a name, nor a number, nor a signature."""
    monkeypatch.setattr("diffkeeper.snapshot.stat_cache.SIGNATURES_EARLY", 100)
    monkeypatch.setattr(limits, "OBSERVE_NAMES_MAX", 50)
    most = 0
    with CaptureRig(tmp_path, CapturePolicy(source="inotify")) as rig:
        for number in range(2_000):
            directory = rig.live / f"d{number // 50}"
            directory.mkdir(exist_ok=True)
            (directory / f"f{number}").write_bytes(b"%d" % number)
        real = NameScanner._file

        def counted(looker: NameScanner, *args: Any) -> Any:
            nonlocal most
            names = sum(map(len, looker._seen.values()))
            numbers = len(looker._read) + len(looker._seen_names) + len(looker._index)
            most = max(most, names + numbers)
            return real(looker, *args)

        monkeypatch.setattr(NameScanner, "_file", counted)
        snapshot = rig.capture()
        assert snapshot.files == 2_000
        assert 100 < most < 400
        for path in rig.live.glob("*/*"):
            record = rig.store.index(rig.state.record.id, path.stat().st_ino)
            assert record is not None
            assert record.name == path.name.encode()


@pytest.mark.parametrize("again", ["same daemon", "another daemon"])
def test_a_first_capture_that_fails_after_signatures_were_stored(
    again: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them proves anything, nor names a link that another file may get."""
    monkeypatch.setattr("diffkeeper.snapshot.stat_cache.SIGNATURES_EARLY", 10)
    monkeypatch.setattr(limits, "OBSERVE_NAMES_MAX", 4)
    rig = CaptureRig(tmp_path, CapturePolicy(source="scan"))
    try:
        for number in range(60):
            path = rig.live / f"{number:02}"
            path.write_bytes(b"%d" % number)
            os.link(path, rig.live / f"{number:02}-again")
        failpoint.arm("capture.before_commit=error")
        with pytest.raises(failpoint.FailpointError):
            rig.capture()
        number = rig.state.record.id
        assert rig.store.index_numbers(number, 0), "some were stored"
        for name in sorted(os.listdir(rig.live))[:40]:
            (rig.live / name).unlink()
        for number in range(20):
            path = rig.live / f"new{number}"
            path.write_bytes(b"new %d" % number)
            os.link(path, rig.live / f"new{number}-again")
        if again == "another daemon":
            rig.close()
            rig = CaptureRig(tmp_path, CapturePolicy(source="scan"))
        snapshot = rig.capture()
        replayed = rig.replay(snapshot, "replayed")
        assert difference(describe(replayed), describe(rig.live)) == []
        assert rig.capture() == snapshot
    finally:
        failpoint.disarm()
        rig.close()


def test_directories_beyond_the_bound_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffkeeper.snapshot.name_scanner.DIRECTORIES_MAX", 20)
    with CaptureRig(tmp_path, CapturePolicy(source="inotify")) as rig:
        for number in range(30):
            (rig.live / f"d{number:02}").mkdir()
            (rig.live / f"f{number:02}").write_bytes(b"x")
        snapshot = rig.capture()
        assert (snapshot.files, snapshot.consistency) == (30, "fuzzy")
        assert "one of more than 20 directories" in snapshot.cause
        assert "and 1 more" in snapshot.cause
        for number in range(15):
            (rig.live / f"d{number:02}").rmdir()
        last = rig.capture()
        assert (last.consistency, last.cause) == ("crash", "")
        replayed = rig.replay(last, "replayed")
        assert difference(describe(replayed), describe(rig.live)) == []


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A directory for what pytest could not delete."""
    top = tmp_path / "deep"
    top.mkdir()
    yield top
    subprocess.run(["rm", "-r", str(top)], check=True)


@pytest.mark.parametrize("source", ["inotify", "scan"])
@pytest.mark.parametrize("leaves", [0, 1], ids=["chain", "comb"])
def test_nested_directories_cost_what_there_are(
    source: str, leaves: int, deep: Path, walked: list[int]
) -> None:
    """Not the square of it: 1,125,000 names are walked where each is opened from the root."""
    depth = 1_500
    most = DESCENT_STEP * depth * (1 + leaves)
    with CaptureRig(deep, CapturePolicy(source=source)) as rig:
        nested(rig.live, depth, leaves)
        walked[0] = 0
        snapshot = rig.capture()
        assert walked[0] < most
        walked[0] = 0
        target = rig.replay(snapshot, "replay")
        assert walked[0] < 2 * most
    (deep / "other").mkdir()
    with CaptureRig(deep / "other", CapturePolicy(source=source), live=target) as again:
        assert again.capture().root == snapshot.root


def test_a_replay_of_nested_directories_keeps_no_paths(deep: Path) -> None:
    """About 1.2 KB for each directory; the paths of these would be 100 KB each."""
    depth = 1_000
    name = "d" * 100
    with CaptureRig(deep, CapturePolicy(source="scan")) as rig:
        top = os.open(rig.live, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir(name, dir_fd=top)
            below = os.open(name, os.O_RDONLY, dir_fd=top)
            os.close(top)
            top = below
        os.close(top)
        snapshot = rig.capture()
        tracemalloc.start()
        try:
            rig.replay(snapshot, "replay")
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert most < 4_000 * depth


def test_what_lies_at_another_directorys_place_is_not_kept(tmp_path: Path) -> None:
    """Two directories were exchanged, and it is not known yet."""
    for name in ("one", "two"):
        (tmp_path / name / f"in {name}").mkdir(parents=True)
    top = Directory(tmp_path.stat().st_ino, None, b"")
    number = (tmp_path / "two").stat().st_ino
    moved = Directory(number, top, b"one")  # where it was before
    fd = os.open(tmp_path, os.O_RDONLY)
    descent = Descent(fd)
    try:
        found = descent.open(moved)
        assert os.listdir(found) == ["in one"], "what is there now"
        os.close(found)
        moved.name = b"two"
        for node in (moved, Directory(0, moved, b"in two")):
            os.close(descent.open(node))
    finally:
        descent.close()
        os.close(fd)


def test_exchanged_directories(tmp_path: Path) -> None:
    with CaptureRig(tmp_path, CapturePolicy(source="scan")) as rig:
        for name in ("a/x/y", "b/x/y", "c/x/y"):
            (rig.live / name).mkdir(parents=True)
            (rig.live / name / "file").write_bytes(name.encode())
        rig.capture()
        for first, second in (("a/x", "b/x"), ("a", "c"), ("b/x/y", "c/x/y")):
            os.rename(rig.live / first, rig.live / "free")
            os.rename(rig.live / second, rig.live / first)
            os.rename(rig.live / "free", rig.live / second)
            snapshot = rig.capture()
            replayed = rig.replay(snapshot, f"replay{snapshot.seq}")
            assert difference(describe(replayed), describe(rig.live)) == []
