"""A capture reads regular files of its own directory, and nothing else, whatever is put in it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import stat
import struct
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper.format import dirtree, root
from diffkeeper.format.entry import Entry, Kind
from diffkeeper.fsio import linux
from diffkeeper.hashing import chunk_digest
from diffkeeper.integrity.verify import Verifier
from diffkeeper.snapshot.policy import CapturePolicy
from tests.support.beside import beside
from tests.support.capture_rig import CaptureRig
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from diffkeeper.format.records import SnapshotRecord

IN_OPEN = 0x20
SECRET = b"what is outside belongs to others\n" * 100
RACE_SECONDS = 2.0
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(params=["inotify", "scan"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CaptureRig]:
    with CaptureRig(tmp_path, CapturePolicy(source=request.param)) as made:
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


def entries(rig: CaptureRig, snapshot: SnapshotRecord) -> dict[bytes, Entry]:
    """Everything that a snapshot records, by path."""
    top, _ = root.decode_root(rig.store.node(snapshot.root))
    found: dict[bytes, Entry] = {}
    pending = [(b"", top)]
    while pending:
        path, directory = pending.pop()
        for name, entry in dirtree.entries(directory.content, rig.store.node):
            found[path + name] = entry
            if entry.kind is Kind.DIRECTORY:
                pending.append((path + name + b"/", entry))
    return found


def assert_nothing_of_outside(rig: CaptureRig) -> None:
    """The content of the secret is nowhere in the store, its name in no snapshot."""
    assert rig.store.missing([chunk_digest(SECRET)]) == {chunk_digest(SECRET)}
    for snapshot in rig.store.snapshots(rig.state.record.id):
        assert not [path for path in entries(rig, snapshot) if b"secret" in path]


def specials(directory: Path) -> None:
    """One of each type that is no regular file."""
    os.mkfifo(directory / "fifo")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(directory / "socket"))
    os.mknod(directory / "char", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    os.mknod(directory / "block", stat.S_IFBLK | 0o600, os.makedev(7, 250))


def test_only_regular_files_are_opened(
    rig: CaptureRig, opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FIFO would block, a device would act; both are recorded all the same."""
    monkeypatch.chdir(rig.live)  # a socket's path is bounded
    specials(Path())
    (rig.live / "file").write_bytes(b"x")
    (rig.live / "link").symlink_to("fifo")
    for name in ("fifo", "socket", "char", "block", "file"):
        opens.watch(rig.live / name)
    first = rig.capture()
    os.chmod(rig.live / "fifo", 0o640)
    os.utime(rig.live / "char", (1, 1))
    second = rig.capture()
    assert opens.seen() == {"file"}
    for snapshot in (first, second):
        kinds = {name: entry.kind for name, entry in entries(rig, snapshot).items()}
        assert kinds == {
            b"fifo": Kind.FIFO,
            b"socket": Kind.SOCKET,
            b"char": Kind.CHAR,
            b"block": Kind.BLOCK,
            b"file": Kind.FILE,
            b"link": Kind.SYMLINK,
        }
    assert entries(rig, second)[b"char"].rdev == os.makedev(1, 5)
    Verifier(rig.store, rig.reader).live(str(rig.live), second.root)
    assert opens.seen() == {"file"}


def exchange(first: Path, second: Path) -> Callable[[int], None]:
    """Swaps two names in one step of the kernel."""

    def act(_: int) -> None:
        at, swap = -100, ctypes.c_uint(2)
        result = _libc.renameat2(at, os.fsencode(first), at, os.fsencode(second), swap)
        assert result == 0, os.strerror(ctypes.get_errno())
        time.sleep(0.0002)

    return act


def capture_for(rig: CaptureRig, seconds: float, touch: Callable[[int], None]) -> int:
    """Captures as fast as possible; returns how many snapshots there are."""
    deadline = time.monotonic() + seconds
    number = seq = 0
    while time.monotonic() < deadline:
        number += 1
        touch(number)
        seq = rig.capture().seq
    return seq


def test_a_fifo_that_takes_a_files_place_is_not_opened(rig: CaptureRig, opens: Opens) -> None:
    os.mkfifo(rig.live / "fifo")
    (rig.live / "file").write_bytes(b"content")
    opens.watch(rig.live / "fifo")
    opens.watch(rig.live / "file")
    with beside(exchange(rig.live / "fifo", rig.live / "file")):
        assert capture_for(rig, RACE_SECONDS, lambda _: None) > 2
    assert opens.seen() == {"file"}


def test_links_are_recorded_and_not_followed(rig: CaptureRig, outside: Path) -> None:
    (rig.live / "to-file").symlink_to(outside / "secret-name")
    (rig.live / "to-directory").symlink_to(outside)
    (rig.live / "up").symlink_to("../outside")
    snapshot = rig.capture()
    found = entries(rig, snapshot)
    assert {entry.kind for entry in found.values()} == {Kind.SYMLINK}
    assert found[b"up"].target == b"../outside"
    assert_nothing_of_outside(rig)
    replayed = rig.replay(snapshot, "replayed")
    assert difference(describe(replayed), describe(rig.live)) == []


def test_a_directory_that_becomes_a_link_leads_nowhere(rig: CaptureRig, outside: Path) -> None:
    """The classic race: between the look at a name and its use, it is another thing."""
    inside = rig.live / "d"
    (inside / "e").mkdir(parents=True)
    for name in ("secret-name", "other"):
        # The same names inside, so that a look may be under way when the link comes.
        (inside / name.replace("secret", "plain")).write_bytes(b"inside")
    (rig.live / "l").symlink_to(outside)
    (outside / "e").mkdir()
    (outside / "e" / "secret-below").write_bytes(SECRET)

    def touch(number: int) -> None:
        with contextlib.suppress(OSError):
            descriptor = os.open(rig.live / "d", os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                made = os.open(f"n{number % 50}", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor)
                os.write(made, b"%d" % number)
                os.close(made)
            finally:
                os.close(descriptor)

    with beside(exchange(rig.live / "d", rig.live / "l")):
        assert capture_for(rig, RACE_SECONDS, touch) > 5
    snapshot = rig.capture()
    assert_nothing_of_outside(rig)
    replayed = rig.replay(snapshot, "replayed")
    assert difference(describe(replayed), describe(rig.live)) == []


def test_a_file_that_becomes_a_link_leads_nowhere(rig: CaptureRig, outside: Path) -> None:
    (rig.live / "f").write_bytes(b"inside")
    (rig.live / "l").symlink_to(outside / "secret-name")
    with beside(exchange(rig.live / "f", rig.live / "l")):
        assert capture_for(rig, RACE_SECONDS, lambda _: None) > 5
    rig.capture()
    assert_nothing_of_outside(rig)


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


def test_no_mount_is_crossed(rig: CaptureRig, outside: Path) -> None:
    """What a mount covers stays as it was recorded; what it shows is never read."""
    for name in ("bound", "other"):
        (rig.live / name).mkdir()
        (rig.live / name / "own").write_bytes(name.encode())
    (rig.live / "file").write_bytes(b"own")
    before = describe(rig.live)
    rig.capture()
    with contextlib.ExitStack() as mounts:
        mounts.enter_context(mounted("--bind", outside, rig.live / "bound"))
        mounts.enter_context(mounted("--bind", outside / "secret-name", rig.live / "file"))
        mounts.enter_context(mounted("-t", "tmpfs", "none", rig.live / "other"))
        (rig.live / "other" / "secret-too").write_bytes(SECRET)
        (outside / "secret-new").write_bytes(b"")
        (rig.live / "new").write_bytes(b"new")
        os.utime(rig.live, ns=(before[b""][4],) * 2)  # type: ignore[arg-type]
        snapshot = rig.capture()
        assert_nothing_of_outside(rig)
        found = describe(rig.replay(snapshot, "replayed"))
        assert difference({k: v for k, v in found.items() if k != b"/new"}, before) == []
        result = Verifier(rig.store, rig.reader).live(str(rig.live), snapshot.root)
        # Not seen is not verified.
        assert {m.path for m in result.mismatches} == {b"bound", b"other", b"file"}
    (rig.live / "bound" / "own").write_bytes(b"changed")
    (rig.live / "file").write_bytes(b"changed")
    snapshot = rig.capture()
    after = describe(rig.live)
    assert difference(describe(rig.replay(snapshot, "replayed-2")), after) == []
    assert_nothing_of_outside(rig)
