"""One odd file stops no other: what can be recorded is, and what cannot be is named."""

from __future__ import annotations

import os
import random
import subprocess
from typing import TYPE_CHECKING

import pytest

from diffkeeper import clock, limits
from diffkeeper.fsio import inode
from diffkeeper.integrity.verify import Verifier
from diffkeeper.snapshot.held_back import HELD_BACK_SECONDS_MAX, HELD_BACK_SECONDS_MIN
from diffkeeper.snapshot.policy import CapturePolicy
from tests.support import disks
from tests.support.capture_rig import CaptureRig
from tests.support.odd import bad_disk, leased
from tests.support.processes import wait_for
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from diffkeeper.format.records import SnapshotRecord

SOURCES = ["inotify", "scan"]


@pytest.fixture(params=SOURCES)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CaptureRig]:
    with CaptureRig(tmp_path, CapturePolicy(source=request.param)) as made:
        yield made


def content(rig: CaptureRig, snapshot: SnapshotRecord) -> dict[str, bytes]:
    """Path to bytes of the regular files of a snapshot."""
    top = rig.replay(snapshot, f"replay-{snapshot.seq}-{random.randbytes(4).hex()}")
    return {str(p.relative_to(top)): p.read_bytes() for p in top.rglob("*") if p.is_file()}


def assert_whole(rig: CaptureRig, snapshot: SnapshotRecord) -> None:
    assert (snapshot.consistency, snapshot.cause) == ("crash", "")
    assert not rig.watched.lacking.text
    top = rig.replay(snapshot, f"whole-{snapshot.seq}")
    assert difference(describe(top), describe(rig.live)) == []
    for _ in range(2):  # what is new is looked at once more
        assert rig.capture("interval") == snapshot
    assert rig.policy.source == "scan" or not rig.watched.pending(rig.writers())


def test_the_last_known_content_of_a_leased_file_stands(rig: CaptureRig) -> None:
    for name in ("leased", "other"):
        (rig.live / name).write_bytes(b"old")
    first = rig.capture()
    for name in ("leased", "other", "new"):
        (rig.live / name).write_bytes(b"newer")
    with leased(rig.live / "leased"), leased(rig.live / "new"):
        snapshot = rig.capture("interval")
        assert content(rig, snapshot) == {"leased": b"old", "other": b"newer"}
        assert snapshot.consistency == "fuzzy", "no instant of all, so not restored unasked"
        assert snapshot.cause == (
            "not read, as it was before: 'leased' (another process holds a lease on it),"
            " 'new' (another process holds a lease on it)"
        )
        assert rig.watched.lacking.text == snapshot.cause
        assert rig.store.newest_crash(rig.state.record.id) == first
        assert rig.capture("interval") == snapshot, "nothing more is known of it"
        (rig.live / "other").write_bytes(b"newest")
        assert content(rig, rig.capture("interval"))["other"] == b"newest"
    assert_whole(rig, rig.capture())
    assert rig.capture().seq == rig.capture().seq


def test_a_directory_with_links_below_a_leased_file(rig: CaptureRig) -> None:
    """Names of a file that cannot be read keep it, though a comparison meets none of them."""
    (rig.live / "one").write_bytes(b"x" * 100_000)
    os.link(rig.live / "one", rig.live / "two")
    rig.capture()
    (rig.live / "one").write_bytes(b"changed")
    with leased(rig.live / "one"):
        rig.watched.forget()  # compares everything
        snapshot = rig.capture()
        assert content(rig, snapshot) == dict.fromkeys(("one", "two"), b"x" * 100_000)
    assert_whole(rig, rig.capture())


def test_trying_again_is_bounded(rig: CaptureRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """No capture is due for a file that stays unreadable, until it is tried again, more seldom."""
    if rig.policy.source == "scan":
        pytest.skip("a scan looks at everything each time anyway")
    now = [1000.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    (rig.live / "leased").write_bytes(b"x")
    writers = rig.writers()
    tries = []
    opened = 0
    real = inode.reading

    def counted(pin: int):  # type: ignore[no-untyped-def]
        nonlocal opened
        opened += 1
        return real(pin)

    monkeypatch.setattr(inode, "reading", counted)
    with leased(rig.live / "leased"):
        rig.capture("interval")
        rig.watched.comparison.due = 1e9
        for _ in range(2000):
            now[0] += 1.0
            if rig.watched.pending(writers):
                tries.append(now[0])
                opened = 0
                assert rig.capture_of("interval", writers) is None
                assert opened == 1
        gaps = [b - a for a, b in zip(tries, tries[1:], strict=False)]
        assert gaps[0] <= 2 * HELD_BACK_SECONDS_MIN + 1
        assert gaps == sorted(gaps)
        assert gaps[-1] >= HELD_BACK_SECONDS_MAX
    assert_whole(rig, rig.capture())


def test_many_unreadable_names_are_counted_not_listed(
    rig: CaptureRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffkeeper.snapshot.held_back.HELD_BACK_MAX", 20)
    (rig.live / "fine").write_bytes(b"x")
    real = inode.reading

    def no_odd_ones(pin: int):  # type: ignore[no-untyped-def]
        if os.readlink(f"/proc/self/fd/{pin}").rpartition("/")[2].startswith("odd"):
            raise OSError(5, "Input/output error")
        return real(pin)

    monkeypatch.setattr(inode, "reading", no_odd_ones)
    for number in range(30):
        (rig.live / f"odd{number:02}").write_bytes(b"x")
    snapshot = rig.capture()
    assert content(rig, snapshot) == {"fine": b"x"}
    assert "'odd09'" in snapshot.cause
    assert snapshot.cause.endswith("and 10 more")
    assert len(snapshot.cause) < 1000
    monkeypatch.setattr(inode, "reading", real)
    # Of those beyond the bound only a comparison tells; one is due soon.
    rig.watched.comparison.due = 0.0
    assert_whole(rig, rig.capture())


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_bad_block_in_a_file(kind: str, source: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    with disks.file_system(kind, tmp_path, 400 * limits.MIB) as disk:
        (disk / "live").mkdir()
        with CaptureRig(base, CapturePolicy(source=source), live=disk / "live") as rig:
            bad = rig.live / "bad"
            noise = random.Random(3).randbytes(1 << 20)
            with open(bad, "wb") as file:
                for _ in range(250):  # lies in both halves of the disk
                    file.write(noise)
            (rig.live / "good").write_bytes(b"1")
            first = rig.capture()
            with open(bad, "r+b") as file:
                file.write(b"changed")
            with bad_disk(tmp_path / "image", disk):
                (rig.live / "good").write_bytes(b"2")  # in memory
                snapshot = rig.capture("interval")
                assert snapshot.cause == "not read, as it was before: 'bad' (Input/output error)"
                assert snapshot.consistency == "fuzzy"
                entries = content(rig, snapshot)
                assert entries["good"] == b"2"
                assert entries["bad"] == content(rig, first)["bad"]
            (rig.live / "good").write_bytes(b"3")  # what was written meanwhile is gone
            assert_whole(rig, rig.capture())


@pytest.mark.parametrize("source", SOURCES)
def test_a_broken_directory_and_a_broken_inode(source: str, tmp_path: Path) -> None:
    """Both cannot be read for good; what was recorded of them and below them stays."""
    base = tmp_path / "base"
    base.mkdir()
    with disks.file_system("ext4", tmp_path, 100 * limits.MIB) as disk:
        live = disk / "live"
        (live / "broken" / "below").mkdir(parents=True)
        for name in ("broken/one", "broken/below/two", "inode", "fine"):
            (live / name).write_bytes(b"old")
        with CaptureRig(base, CapturePolicy(source=source), live=live) as rig:
            rig.capture()
        image = tmp_path / "image"
        loop = _loop_of(image)
        blocks = subprocess.run(
            ["debugfs", "-R", "blocks /live/broken", loop],
            capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
        number = (live / "inode").stat().st_ino
        subprocess.run(["umount", str(disk)], check=True)
        # A mount namespace that another process made meanwhile may still have it, and its caches.
        wait_for(lambda: not _loop_of(image), "the image is let go of", 60)
        with open(image, "r+b") as file:
            size = 1024 if _block_size(image) == 1024 else 4096
            file.seek(int(blocks[0]) * size)
            file.write(b"\xff" * size)
        done = ["debugfs", "-w", "-R", f"set_inode_field <{number}> mode 0170644", str(image)]
        subprocess.run(done, check=True, capture_output=True)
        disks.mount_image(image, disk).check_returncode()
        with CaptureRig(base, CapturePolicy(source=source), live=live) as rig:
            (live / "fine").write_bytes(b"new")
            snapshot = rig.capture("interval")
            assert "'broken'" in snapshot.cause
            assert "'inode'" in snapshot.cause
            old = dict.fromkeys(("broken/one", "broken/below/two", "inode"), b"old")
            assert content(rig, snapshot) == {**old, "fine": b"new"}
            assert rig.capture("interval") == snapshot
            if source != "scan":
                assert not rig.watched.pending(rig.writers())


def _loop_of(image: Path) -> str:
    return subprocess.run(
        ["losetup", "--noheadings", "--output", "NAME", "--associated", str(image)],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip


def _block_size(image: Path) -> int:
    found = subprocess.run(
        ["dumpe2fs", "-h", str(image)], capture_output=True, text=True, check=True
    ).stdout
    return int(next(line for line in found.splitlines() if "Block size" in line).split()[-1])


@pytest.mark.parametrize("source", SOURCES)
def test_attributes_beyond_the_bounds(source: str, tmp_path: Path) -> None:
    """XFS keeps more attributes than are recorded, and more names than the kernel lists."""
    with disks.file_system("xfs", tmp_path) as base:
        with CaptureRig(base, CapturePolicy(source=source)) as rig:
            for name in ("large", "many", "fine", "directory"):
                path = rig.live / name
                path.mkdir() if name == "directory" else path.write_bytes(b"content")
                os.setxattr(path, "security.capability", _CAPABILITY) if name == "many" else None
            assert_whole(rig, rig.capture())
            for name in ("large", "directory"):
                for number in range(9):
                    os.setxattr(rig.live / name, f"user.{number}", bytes(65_000))
            for number in range(280):
                os.setxattr(rig.live / "many", f"user.{number:0250}", b"x")
            (rig.live / "fine").write_bytes(b"changed")
            snapshot = rig.capture("interval")
            assert snapshot.consistency == "crash", "the content of all is of one instant"
            assert snapshot.cause == (
                "left out: 'large' (1 extended attributes, which are too large), 'many' (extended"
                " attributes but those of the system: their names exceed what can be listed),"
                " 'directory' (1 extended attributes, which are too large)"
            )
            top = rig.replay(snapshot, "replay")
            assert os.listxattr(top / "many") == ["security.capability"]
            assert len(os.listxattr(top / "large")) == len(os.listxattr(top / "directory")) == 8
            assert (top / "fine").read_bytes() == b"changed"
            verifier = Verifier(rig.store, rig.reader)
            root = snapshot.root
            assert verifier.live(str(rig.live), root).mismatches == []
            assert rig.capture("interval") == snapshot
        with CaptureRig(base, CapturePolicy(source=source)) as rig:
            assert rig.capture("interval") == snapshot, "another daemon sees the same"
            for name in ("large", "directory"):
                os.removexattr(rig.live / name, "user.0")
            for number in range(30):
                os.removexattr(rig.live / "many", f"user.{number:0250}")
            assert_whole(rig, rig.capture())


_CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


@pytest.mark.parametrize("source", SOURCES)
def test_a_subvolume_is_named(source: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    with disks.file_system("btrfs", tmp_path) as disk:
        (disk / "live").mkdir()
        with CaptureRig(base, CapturePolicy(source=source), live=disk / "live") as rig:
            (rig.live / "file").write_bytes(b"x")
            create = ["btrfs", "subvolume", "create", str(rig.live / "below")]
            subprocess.run(create, check=True, capture_output=True)
            (rig.live / "below" / "hidden").write_bytes(b"x")
            snapshot = rig.capture()
            assert snapshot.consistency == "crash"
            text = "left out: 'below' (a file system of its own, such as a subvolume)"
            assert snapshot.cause == rig.watched.lacking.text == text
            assert content(rig, snapshot) == {"file": b"x"}
            root = snapshot.root
            verifier = Verifier(rig.store, rig.reader)
            assert verifier.live(str(rig.live), root).mismatches == []
            delete = ["btrfs", "subvolume", "delete", str(rig.live / "below")]
            subprocess.run(delete, check=True, capture_output=True)
            assert_whole(rig, rig.capture())
