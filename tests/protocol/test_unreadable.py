"""A live directory that cannot be looked at is there: nothing is put in its place."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper.errors import UnreadableError
from tests.support import disks
from tests.support.daemon import unmount_below
from tests.support.service import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from diffkeeper.service.service import VolumeService


@contextlib.contextmanager
def replaced(live: Path, by: str) -> Iterator[None]:
    """Something else stands in its place, or in that of the directory that holds it."""
    victim = live.parent if by == "a file above" else live
    kept = victim.with_name(f"{victim.name}.kept")
    victim.rename(kept)
    if by.startswith("a file"):
        victim.write_text("")
    else:
        victim.symlink_to(victim if by == "a loop" else "nowhere")
    yield
    victim.unlink()
    kept.rename(victim)


@contextlib.contextmanager
def stale(live: Path, _: str) -> Iterator[None]:
    """A network file system whose server is gone."""
    device = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    mounted = libc.mount(b"none", bytes(live), b"fuse", 0, options) == 0
    os.close(device)
    if not mounted:
        pytest.skip(f"mounting FUSE: {os.strerror(ctypes.get_errno())}")
    yield
    libc.umount2(bytes(live), 2)


def bound(source: Path, target: Path) -> None:
    subprocess.run(["mount", "--bind", str(source), str(target)], check=True)


async def made(service: VolumeService) -> None:
    await service.provision.create("v", {"interval": "1h"})
    root = Path(await service.mount("v", "m"))
    (root / "file").write_text("recorded")
    await service.snapshot("v")
    await service.unmount("v", "m")


def live_of(base: Path) -> Path:
    (found,) = (base / "state" / "volumes").glob("*/live")
    return found


@contextlib.asynccontextmanager
async def unreadable(base: Path, by: str) -> AsyncIterator[tuple[VolumeService, Path]]:
    """A volume whose live directory is younger than its snapshot, and cannot be looked at."""
    async with running(base) as service:
        await made(service)
    live = live_of(base)
    (live / "file").write_text("younger")
    with (stale if by == "stale" else replaced)(live, by):
        async with running(base) as service:
            yield service, live


@pytest.mark.parametrize("by", ["a file", "a file above", "a loop", "a link to nowhere", "stale"])
async def test_nothing_is_replayed_beside_it(base: Path, by: str) -> None:
    async with unreadable(base, by) as (service, live):
        with pytest.raises(UnreadableError, match=f"{live} of v cannot be looked at"):
            await service.mount("v", "m")
        assert not (live.parent / "incoming").exists()
        with pytest.raises(UnreadableError):
            await service.verify("v", None)
    async with running(base) as service:
        await service.mount("v", "m")
        assert (live / "file").read_text() == "younger"


@pytest.mark.parametrize("by", ["a loop", "stale"])
async def test_a_removal_keeps_it(base: Path, by: str) -> None:
    async with unreadable(base, by) as (service, live):
        await service.remove("v")
        (trashed,) = await service.history.removed()
        assert trashed.live
    async with running(base) as service:
        await service.provision.undelete("v", None)
        root = Path(await service.mount("v", "m"))
        assert (root / "file").read_text() == "younger"


async def test_a_disk_of_its_own_that_is_not_mounted(base: Path, tmp_path: Path) -> None:
    """What holds the live directories is there, and empty: not gone, but on the disk beneath."""
    with disks.file_system("ext4", tmp_path) as disk:
        (base / "state").mkdir()
        (base / "state" / "volumes").mkdir()
        bound(disk, base / "state" / "volumes")
        async with running(base) as service:
            await made(service)
        unmount_below(base)
        async with running(base) as service:
            with pytest.raises(UnreadableError, match="a disk of its own, which is not mounted"):
                await service.mount("v", "m")
        assert list((base / "state" / "volumes").glob("*/*")) == []
        bound(disk, base / "state" / "volumes")
        async with running(base) as service:
            root = Path(await service.mount("v", "m"))
            assert (root / "file").read_text() == "recorded"
        unmount_below(base)
