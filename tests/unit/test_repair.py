"""Repairs on a rig without a daemon: unreadable places, damaged stores, refusals."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from diffkeeper import limits
from diffkeeper.errors import ConflictError, CorruptionError, NotFoundError
from diffkeeper.format import filetree
from diffkeeper.format.ids import Root
from diffkeeper.fsio import inode
from diffkeeper.integrity.bit_rot import Damage, UnusedDirectory
from diffkeeper.integrity.repair import Repair, RepairJournal, pending
from diffkeeper.integrity.verify import entry_at
from diffkeeper.replay.object_source import StoreObjects
from diffkeeper.replay.replay import restore
from diffkeeper.snapshot.policy import CapturePolicy
from diffkeeper.store.store import Batch
from tests.support import rot
from tests.support.capture_rig import CaptureRig
from tests.support.repairs import SIZE, head, made, opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


CHUNK = limits.CHUNK_BYTES_DEFAULT


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[CaptureRig]:
    with made(tmp_path) as rig:
        yield rig


@pytest.fixture
def live(rig: CaptureRig) -> Iterator[UnusedDirectory]:
    with opened(rig) as live:
        yield live


def vouch(rig: CaptureRig, path: bytes) -> None:
    """Take what the file's signature is now for the recorded one, as on a disk that rotted."""
    status = (rig.live / os.fsdecode(path)).stat()
    record = rig.store.index(1, status.st_ino)
    assert record is not None
    record = structs.replace(
        record,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        seen_ns=status.st_ctime_ns + 10**12,
    )
    rig.store.commit(Batch(index_put={(1, status.st_ino): record.encode()}))


def spoil(rig: CaptureRig, path: bytes, *offsets: int) -> bytes:
    """Damage a live file; what it holds then."""
    file = rig.live / os.fsdecode(path)
    before = file.stat()
    with open(file, "r+b") as opened:
        for offset in offsets:
            opened.seek(offset)
            found = opened.read(1)
            opened.seek(offset)
            opened.write(bytes([found[0] ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    vouch(rig, path)
    return file.read_bytes()


def mended(rig: CaptureRig, live: UnusedDirectory, damages: list[Damage]) -> dict[bytes, str]:
    work = Repair(rig.store, rig.state, live, str(rig.base / "repair"))
    work.keep_found_state(head(rig), damages, 1, contextlib.nullcontext)
    return work.write(damages)


def examined(live: UnusedDirectory, path: bytes) -> Damage:
    found = live.examine(path)
    assert found is not None
    return found


def test_what_is_whole_and_what_is_not(rig: CaptureRig, live: UnusedDirectory) -> None:
    good = (rig.live / "d" / "f").read_bytes()
    vouch(rig, b"d/f")
    assert live.examine(b"d/f") is None
    spoil(rig, b"d/f", 5, CHUNK + 1, 5 * CHUNK, SIZE - 1)
    damage = examined(live, b"d/f")
    assert damage.ranges == [(0, 2 * CHUNK), (5 * CHUNK, 6 * CHUNK), (10 * CHUNK, SIZE)]
    assert damage.bytes == 3 * CHUNK + 100
    assert mended(rig, live, [damage]) == {}
    assert (rig.live / "d" / "f").read_bytes() == good
    assert live.examine(b"d/f") is None
    assert not (rig.base / "repair").exists()
    # The signature is that of the repaired file: nothing is captured anew.
    before = head(rig)
    assert rig.capture().seq == before.seq


def test_many_ranges_are_counted(
    rig: CaptureRig, live: UnusedDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffkeeper.integrity.bit_rot.REPAIR_RANGES_SHOWN_MAX", 2)
    spoil(rig, b"d/f", 0, 2 * CHUNK, 4 * CHUNK, 6 * CHUNK)
    damage = examined(live, b"d/f")
    assert (len(damage.ranges), damage.ranges_left_out, damage.bytes) == (2, 2, 4 * CHUNK)


def test_places_that_the_disk_does_not_give(
    rig: CaptureRig, live: UnusedDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector, until it is written: what is kept of it is a hole."""
    good = (rig.live / "d" / "f").read_bytes()
    rotten = spoil(rig, b"d/f", 0)
    bad = {3 * CHUNK}
    read, write = inode.read_exactly, os.pwrite

    def reading(fd: int, view: memoryview, offset: int) -> int:
        if offset in bad:
            raise OSError(errno.EIO, "Input/output error")
        return read(fd, view, offset)

    def writing(fd: int, data: bytes, offset: int) -> int:
        bad.discard(offset)
        return write(fd, data, offset)

    monkeypatch.setattr(inode, "read_exactly", reading)
    monkeypatch.setattr(os, "pwrite", writing)
    damage = examined(live, b"d/f")
    assert (damage.bytes, damage.unreadable_bytes) == (2 * CHUNK, CHUNK)
    assert mended(rig, live, [damage]) == {}
    assert bad == set()
    assert (rig.live / "d" / "f").read_bytes() == good
    target = rig.base / "kept"
    target.mkdir()
    kept = rig.store.snapshot(1, head(rig).seq - 1)
    restore(kept.root, StoreObjects(rig.store), str(target))
    expected = rotten[: 3 * CHUNK] + bytes(CHUNK) + rotten[4 * CHUNK :]
    assert (target / "d" / "f").read_bytes() == expected


def test_a_disk_that_does_not_take_it(
    rig: CaptureRig, live: UnusedDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told, of that file; the other one is repaired; both are still what is recorded."""
    good = (rig.live / "g").read_bytes()
    spoil(rig, b"d/f", 0)
    spoil(rig, b"g", 0)
    number = (rig.live / "d" / "f").stat().st_ino
    write = os.pwrite

    def writing(fd: int, data: bytes, offset: int) -> int:
        if os.fstat(fd).st_ino == number:
            return len(data)
        return write(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", writing)
    failed = mended(rig, live, [examined(live, b"d/f"), examined(live, b"g")])
    assert list(failed) == [b"d/f"]
    assert "other bytes than were written" in failed[b"d/f"]
    assert (rig.live / "g").read_bytes() == good
    assert live.examine(b"g") is None
    assert live.examine(b"d/f") is not None


def test_the_store_is_damaged_too(tmp_path: Path) -> None:
    with made(tmp_path) as rig:
        rotten = spoil(rig, b"d/f", 0)
        root = head(rig).root
        entry, _ = entry_at(rig.store, root, b"d/f")
        assert entry is not None
        chunk = next(filetree.refs(entry.content, 11, rig.store.node, 0, 1))
    rot.spoil(tmp_path / "store", [chunk])
    with (
        CaptureRig(tmp_path, CapturePolicy(source="scan")) as again,
        contextlib.closing(UnusedDirectory(again.store, 1, str(again.live), root)) as live,
    ):
        with pytest.raises(CorruptionError, match="'d/f': what the store has of it"):
            live.examine(b"d/f")
        assert (again.live / "d" / "f").read_bytes() == rotten


def test_what_was_written_is_refused(rig: CaptureRig, live: UnusedDirectory) -> None:
    with pytest.raises(ConflictError, match="too soon"):
        live.examine(b"d/f")
    vouch(rig, b"d/f")
    file = rig.live / "d" / "f"
    before = file.stat()
    file.write_bytes(file.read_bytes())
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ConflictError, match="it was written, not damaged"):
        live.examine(b"d/f")
    file.unlink()
    with pytest.raises(NotFoundError, match="missing on disk"):
        live.examine(b"d/f")
    file.write_bytes(b"another")
    with pytest.raises(ConflictError, match=r"written|new one"):
        live.examine(b"d/f")


def test_nothing_beyond_the_volume_is_reached(rig: CaptureRig, live: UnusedDirectory) -> None:
    """A directory that was exchanged for a link since it was recorded."""
    outside = rig.base / "outside"
    outside.mkdir()
    (outside / "f").write_bytes(b"mine")
    os.rename(rig.live / "d", rig.base / "moved")
    os.symlink(outside, rig.live / "d")
    with pytest.raises(ConflictError, match="symbolic link"):
        live.examine(b"d/f")
    (rig.live / "g").unlink()
    os.mkfifo(rig.live / "g")
    with pytest.raises(ConflictError, match="no regular file on disk"):
        live.examine(b"g")
    assert (outside / "f").read_bytes() == b"mine"


def test_a_written_file_is_not_overwritten_after_the_look(
    rig: CaptureRig, live: UnusedDirectory
) -> None:
    """Somebody wrote between the look and the repair."""
    spoil(rig, b"d/f", 0)
    damage = examined(live, b"d/f")
    work = Repair(rig.store, rig.state, live, str(rig.base / "repair"))
    work.keep_found_state(head(rig), [damage], 1, contextlib.nullcontext)
    (rig.live / "d" / "f").write_bytes(b"new")
    assert "it was written" in work.write([damage])[b"d/f"]
    assert (rig.live / "d" / "f").read_bytes() == b"new"
    assert rig.capture().new_bytes == 3


def test_no_room_for_the_tag(
    rig: CaptureRig, live: UnusedDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotten = spoil(rig, b"d/f", 0)
    before = head(rig)
    monkeypatch.setattr(limits, "TAGS_MAX", 0)
    with pytest.raises(ConflictError, match="nothing was repaired"):
        mended(rig, live, [examined(live, b"d/f")])
    assert head(rig) == before
    assert (rig.live / "d" / "f").read_bytes() == rotten


def test_the_journal(tmp_path: Path) -> None:
    journal = RepairJournal(Root.fromhex("ab" * 32), ((b"a\xff/b", 7), (b"c", 8)))
    path = tmp_path / "repair"
    assert pending(str(path)) is None
    path.write_bytes(journal.encode())
    assert pending(str(path)) == journal
    for bad in (b"", b"{}", b"[]", b'{"root":"x","files":[["zz",1]]}', b"\xff"):
        path.write_bytes(bad)
        with pytest.raises(CorruptionError):
            pending(str(path))
