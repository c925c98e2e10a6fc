"""A capture reads regular files of its own directory, and nothing else, whatever is put in it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import stat
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper.format import dirtree, root
from diffkeeper.format.entry import Entry, Kind
from diffkeeper.fsio import linux
from diffkeeper.hashing import chunk_digest
from diffkeeper.integrity.verify import Verifier
from diffkeeper.snapshot.context import CapturePolicy
from tests.support.harness import Engine
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from diffkeeper.format.records import SnapshotRecord

IN_OPEN = 0x20
SECRET = b"what is outside belongs to others\n" * 100
RACE_SECONDS = 2.0
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(params=["inotify", "scan"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path, CapturePolicy(source=request.param)) as made:
        yield made


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory beside the live one, with a file that must never be read."""
    found = tmp_path / "outside"
    found.mkdir()
    (found / "secret-name").write_bytes(SECRET)
    return found


class Opens:
    """Counts opens of single inodes, by what the kernel tells."""

    def __init__(self) -> None:
        self._fd = linux.inotify_init()
        self._names: dict[int, str] = {}

    def watch(self, path: Path) -> None:
        pin = os.open(path, os.O_PATH | os.O_NOFOLLOW)
        self._names[linux.inotify_add_watch(self._fd, pin, IN_OPEN)] = path.name
        os.close(pin)

    def seen(self) -> set[str]:
        """Names of the watched files that were opened."""
        found = set()
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._fd, 65536):
                found |= {self._names[event[0]] for event in struct.iter_unpack("=iIII", data)}
        return found

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def opens() -> Iterator[Opens]:
    made = Opens()
    yield made
    made.close()


def entries(engine: Engine, snapshot: SnapshotRecord) -> dict[bytes, Entry]:
    """Everything that a snapshot records, by path."""
    top, _ = root.decode_root(engine.store.node(snapshot.root))
    found: dict[bytes, Entry] = {}
    pending = [(b"", top)]
    while pending:
        path, directory = pending.pop()
        for name, entry in dirtree.entries(directory.content, engine.store.node):
            found[path + name] = entry
            if entry.kind is Kind.DIRECTORY:
                pending.append((path + name + b"/", entry))
    return found


def assert_nothing_of_outside(engine: Engine) -> None:
    """The content of the secret is nowhere in the store, its name in no snapshot."""
    assert engine.store.missing([chunk_digest(SECRET)]) == {chunk_digest(SECRET)}
    for snapshot in engine.store.snapshots(engine.state.record.id):
        assert not [path for path in entries(engine, snapshot) if b"secret" in path]


def specials(directory: Path) -> None:
    """One of each type that is no regular file."""
    os.mkfifo(directory / "fifo")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(directory / "socket"))
    os.mknod(directory / "char", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    os.mknod(directory / "block", stat.S_IFBLK | 0o600, os.makedev(7, 250))


def test_only_regular_files_are_opened(
    engine: Engine, opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FIFO would block, a device would act; both are recorded all the same."""
    monkeypatch.chdir(engine.live)  # a socket's path is bounded
    specials(Path())
    (engine.live / "file").write_bytes(b"x")
    (engine.live / "link").symlink_to("fifo")
    for name in ("fifo", "socket", "char", "block", "file"):
        opens.watch(engine.live / name)
    first = engine.capture()
    os.chmod(engine.live / "fifo", 0o640)
    os.utime(engine.live / "char", (1, 1))
    second = engine.capture()
    assert opens.seen() == {"file"}
    for snapshot in (first, second):
        kinds = {name: entry.kind for name, entry in entries(engine, snapshot).items()}
        assert kinds == {
            b"fifo": Kind.FIFO,
            b"socket": Kind.SOCKET,
            b"char": Kind.CHAR,
            b"block": Kind.BLOCK,
            b"file": Kind.FILE,
            b"link": Kind.SYMLINK,
        }
    assert entries(engine, second)[b"char"].rdev == os.makedev(1, 5)
    Verifier(engine.store, engine.reader).live(str(engine.live), second.root)
    assert opens.seen() == {"file"}


@contextlib.contextmanager
def repeated(act: Callable[[], None]) -> Iterator[None]:
    """Does it over and over on a thread of its own."""
    ended = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        while not ended.is_set():
            try:
                act()
            except BaseException as error:
                failures.append(error)
                return

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert failures == []


def exchange(first: Path, second: Path) -> Callable[[], None]:
    """Swaps two names in one step of the kernel."""

    def act() -> None:
        at, swap = -100, ctypes.c_uint(2)
        result = _libc.renameat2(at, os.fsencode(first), at, os.fsencode(second), swap)
        assert result == 0, os.strerror(ctypes.get_errno())
        time.sleep(0.0002)

    return act


def capture_for(engine: Engine, seconds: float, touch: Callable[[int], None]) -> int:
    """Captures as fast as possible; returns how many snapshots there are."""
    deadline = time.monotonic() + seconds
    number = seq = 0
    while time.monotonic() < deadline:
        number += 1
        touch(number)
        seq = engine.capture().seq
    return seq


def test_a_fifo_that_takes_a_files_place_is_not_opened(engine: Engine, opens: Opens) -> None:
    os.mkfifo(engine.live / "fifo")
    (engine.live / "file").write_bytes(b"content")
    opens.watch(engine.live / "fifo")
    opens.watch(engine.live / "file")
    with repeated(exchange(engine.live / "fifo", engine.live / "file")):
        assert capture_for(engine, RACE_SECONDS, lambda _: None) > 2
    assert opens.seen() == {"file"}


def test_links_are_recorded_and_not_followed(engine: Engine, outside: Path) -> None:
    (engine.live / "to-file").symlink_to(outside / "secret-name")
    (engine.live / "to-directory").symlink_to(outside)
    (engine.live / "up").symlink_to("../outside")
    snapshot = engine.capture()
    found = entries(engine, snapshot)
    assert {entry.kind for entry in found.values()} == {Kind.SYMLINK}
    assert found[b"up"].target == b"../outside"
    assert_nothing_of_outside(engine)
    replayed = engine.replay(snapshot, "replayed")
    assert difference(describe(replayed), describe(engine.live)) == []


def test_a_directory_that_becomes_a_link_leads_nowhere(engine: Engine, outside: Path) -> None:
    """The classic race: between the look at a name and its use, it is another thing."""
    inside = engine.live / "d"
    (inside / "e").mkdir(parents=True)
    for name in ("secret-name", "other"):
        # The same names inside, so that a look may be under way when the link comes.
        (inside / name.replace("secret", "plain")).write_bytes(b"inside")
    (engine.live / "l").symlink_to(outside)
    (outside / "e").mkdir()
    (outside / "e" / "secret-below").write_bytes(SECRET)

    def touch(number: int) -> None:
        with contextlib.suppress(OSError):
            descriptor = os.open(engine.live / "d", os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                made = os.open(f"n{number % 50}", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor)
                os.write(made, b"%d" % number)
                os.close(made)
            finally:
                os.close(descriptor)

    with repeated(exchange(engine.live / "d", engine.live / "l")):
        assert capture_for(engine, RACE_SECONDS, touch) > 5
    snapshot = engine.capture()
    assert_nothing_of_outside(engine)
    replayed = engine.replay(snapshot, "replayed")
    assert difference(describe(replayed), describe(engine.live)) == []


def test_a_file_that_becomes_a_link_leads_nowhere(engine: Engine, outside: Path) -> None:
    (engine.live / "f").write_bytes(b"inside")
    (engine.live / "l").symlink_to(outside / "secret-name")
    with repeated(exchange(engine.live / "f", engine.live / "l")):
        assert capture_for(engine, RACE_SECONDS, lambda _: None) > 5
    engine.capture()
    assert_nothing_of_outside(engine)


@contextlib.contextmanager
def mounted(*arguments: str | Path) -> Iterator[None]:
    """Something mounted inside the live directory."""
    command = ["mount", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.skip(f"cannot mount: {result.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(arguments[-1])], check=True)


def test_no_mount_is_crossed(engine: Engine, outside: Path) -> None:
    """What a mount covers stays as it was recorded; what it shows is never read."""
    for name in ("bound", "other"):
        (engine.live / name).mkdir()
        (engine.live / name / "own").write_bytes(name.encode())
    (engine.live / "file").write_bytes(b"own")
    before = describe(engine.live)
    engine.capture()
    with contextlib.ExitStack() as mounts:
        mounts.enter_context(mounted("--bind", outside, engine.live / "bound"))
        mounts.enter_context(mounted("--bind", outside / "secret-name", engine.live / "file"))
        mounts.enter_context(mounted("-t", "tmpfs", "none", engine.live / "other"))
        (engine.live / "other" / "secret-too").write_bytes(SECRET)
        (outside / "secret-new").write_bytes(b"")
        (engine.live / "new").write_bytes(b"new")
        os.utime(engine.live, ns=(before[b""][4],) * 2)  # type: ignore[arg-type]
        snapshot = engine.capture()
        assert_nothing_of_outside(engine)
        found = describe(engine.replay(snapshot, "replayed"))
        assert difference({k: v for k, v in found.items() if k != b"/new"}, before) == []
        result = Verifier(engine.store, engine.reader).live(str(engine.live), snapshot.root)
        # Not seen is not verified.
        assert {m.path for m in result.mismatches} == {b"bound", b"other", b"file"}
    (engine.live / "bound" / "own").write_bytes(b"changed")
    (engine.live / "file").write_bytes(b"changed")
    snapshot = engine.capture()
    after = describe(engine.live)
    assert difference(describe(engine.replay(snapshot, "replayed-2")), after) == []
    assert_nothing_of_outside(engine)
