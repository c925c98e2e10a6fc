"""The option `size`: real quotas of real file systems, filled until they refuse."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from diffkeeper.api import checks
from diffkeeper.errors import ConflictError, NotFoundError, UnsupportedError
from diffkeeper.fsio import mountinfo, project_quota
from diffkeeper.limits import MIB
from tests.support import disks, sizes
from tests.support.service import running, status_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffkeeper.service.service import VolumeService

QUIET = {"interval": "1h", "capture": "scan", "consistency": "fuzzy"}


@pytest.fixture(params=disks.KINDS)
def limited(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Where a daemon may live, on a file system with project quotas."""
    with disks.file_system(request.param, tmp_path, quotas=True) as disk:
        yield disk
        unmount_below(disk)


@pytest.fixture(params=disks.KINDS)
def unlimited(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """The same without quotas."""
    with disks.file_system(request.param, tmp_path) as disk:
        yield disk
        unmount_below(disk)


def unmount_below(base: Path) -> None:
    for point in (base / "mounts").glob("*"):
        subprocess.run(["umount", "--lazy", str(point)], check=False, capture_output=True)


@contextlib.contextmanager
def immutable(path: Path) -> Iterator[None]:
    subprocess.run(["chattr", "+i", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", str(path)], check=True)


def live_of(base: Path) -> Path:
    (found,) = (base / "state" / "volumes").glob("*/live")
    return found


async def deleted_by_hand(base: Path) -> int:
    """Remove the live directory, as nobody should; number of the project that it had."""
    number = sizes.number_of(str(live_of(base)))
    shutil.rmtree(live_of(base))
    with project_quota._opened(str(base)) as fd:
        await asyncio.to_thread(sizes.wait_empty, fd, number)
    return number


def status(service: VolumeService, name: str = "v") -> dict[str, object]:
    found: dict[str, object] = msgspec.to_builtins(status_of(service, name))
    return found


def filled(root: str | Path, size: int, name: str = "file") -> int:
    return sizes.written(f"{root}/{name}", size)


async def test_what_cannot_be_limited_is_refused(unlimited: Path) -> None:
    """Nothing of it is left; a volume that is there goes on without."""
    _, _, kind = mountinfo.locate(str(unlimited))
    async with running(unlimited) as service:
        await service.provision.create("plain", QUIET)
        for options in ({"size": "10G"}, {"size": "10G", "from": "plain"}):
            with pytest.raises((UnsupportedError, NotFoundError)) as caught:
                await service.provision.create("v", options)
            text = str(caught.value)
            assert f"{unlimited}/state/volumes ({kind}, mounted at {unlimited})" in text
            assert "pquota" in text
            assert "prjquota" in text
        assert [view.name for view in service.views()] == ["plain"]
        assert len(list((unlimited / "state" / "volumes").iterdir())) == 1
        with pytest.raises(UnsupportedError, match="limits no directory"):
            await service.changes.set_options("plain", {"size": "10G"})
        assert status(service, "plain")["size"] is None
        assert "size" not in service.view("plain").options
        assert checks.sizes([service.view("plain")]).result == "ok"


async def test_a_volume_takes_no_more_and_its_history_goes_on(limited: Path) -> None:
    async with running(limited) as service:
        await service.provision.create("v", {**QUIET, "size": "8M"})
        root = await service.mount("v", "m")
        assert filled(root, 16 * MIB) <= 8 * MIB
        assert (await service.snapshot("v")).files == 1
        assert (await service.verify("v", None)).ok
        told = status(service)
        used = told["size_used"]
        assert told["size"] == 8 * MIB
        assert isinstance(used, int)
        assert 7 * MIB < used <= 8 * MIB + project_quota._ROUNDED_MAX
        check = checks.sizes([service.view("v")])
        assert check.result == "warn"
        assert "v: " in check.found
        assert "of 8MiB used" in check.found
        assert service.troubles() == []
        await service.changes.set_options("v", {"size": "16M"})
        assert filled(root, 4 * MIB, "more") == 4 * MIB
        await service.changes.set_options("v", {"size": None})
        assert filled(root, 16 * MIB, "most") == 16 * MIB
        assert status(service)["size"] is status(service)["size_used"] is None
        await service.unmount("v", "m")


async def test_a_size_without_a_number_left(limited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffkeeper.fsio.project_quota.PROJECT_TRIES_MAX", 1)
    (limited / "other").mkdir()
    # The volume's own number is where the search for it begins.
    project_quota.allot(str(limited / "other"), 1, MIB)
    async with running(limited) as service:
        with pytest.raises(UnsupportedError, match="1 project numbers from 1600000001 are in use"):
            await service.provision.create("v", {**QUIET, "size": "8M"})
        assert service.views() == []
        assert list((limited / "state" / "volumes").iterdir()) == []
        await service.provision.create("v", {**QUIET, "size": "8M"})


async def test_a_removal_gives_the_number_back(limited: Path) -> None:
    async with running(limited) as service:
        await service.provision.create("v", {**QUIET, "size": "8M", "trash": "off"})
        root = await service.mount("v", "m")
        (Path(root) / "file").write_text("recorded")
        await service.unmount("v", "m")
        number = sizes.number_of(str(live_of(limited)))
        await service.remove("v")
        await asyncio.to_thread(sizes.wait_free, limited, number)
        # Though somebody deleted the directory that has it.
        await service.provision.create("v", {**QUIET, "size": "8M"})
        number = await deleted_by_hand(limited)
        await service.remove("v")
        await asyncio.to_thread(sizes.wait_free, limited, number)


async def test_a_live_directory_that_is_made_anew_is_limited(limited: Path) -> None:
    """By a replay, and as a clone; a state that is larger than the limit comes back whole."""
    async with running(limited) as service:
        await service.provision.create("v", {**QUIET, "consistency": "crash", "size": "8M"})
        root = await service.mount("v", "m")
        filled(root, 6 * MIB)
        await service.unmount("v", "m")
        number = await deleted_by_hand(limited)
        root = await service.mount("v", "m")
        assert sizes.number_of(str(live_of(limited))) == number
        assert (Path(root) / "file").stat().st_size == 6 * MIB
        assert filled(root, 8 * MIB, "more") <= 2 * MIB
        await service.unmount("v", "m")
        await service.provision.create("clone", {"from": "v@1", "size": "1M"})
        root = await service.mount("clone", "m")
        assert (Path(root) / "file").stat().st_size == 6 * MIB
        assert filled(root, MIB, "more") == 0
        (check,) = [checks.sizes([service.view("clone")])]
        assert "of 1MiB used" in check.found
        (Path(root) / "file").unlink()
        assert filled(root, MIB // 2, "more") == MIB // 2
        await service.unmount("clone", "m")


async def test_a_larger_state_comes_back_though_its_number_is_limited(limited: Path) -> None:
    """Of the directory that somebody deleted, the limit is left."""
    async with running(limited) as service:
        await service.provision.create("v", {**QUIET, "consistency": "crash", "size": "8M"})
        root = await service.mount("v", "m")
        filled(root, 6 * MIB)
        await service.unmount("v", "m")
        await service.changes.set_options("v", {"size": "1M"})
        await deleted_by_hand(limited)
        root = await service.mount("v", "m")
        assert (Path(root) / "file").stat().st_size == 6 * MIB
        assert filled(root, MIB, "more") == 0
        await service.unmount("v", "m")


async def test_a_volume_that_had_no_size_gets_one(limited: Path) -> None:
    async with running(limited) as service:
        await service.provision.create("v", QUIET)
        root = await service.mount("v", "m")
        filled(root, 2 * MIB)
        with pytest.raises(ConflictError, match="stop its containers first"):
            await service.changes.set_options("v", {"size": "4M"})
        (Path(root) / "kept").touch()
        await service.unmount("v", "m")
        with immutable(live_of(limited) / "kept"):
            await service.changes.set_options("v", {"size": "4M"})
            told = "".join(service.troubles())
            if mountinfo.locate(str(limited))[2] == "ext4":  # XFS counts immutable files, too
                assert "its files cannot be counted" in told
                assert "Operation not permitted: 'kept'" in told
        await service.changes.set_options("v", {"size": "5M"})
        assert service.troubles() == []
        await service.changes.set_options("v", {"size": "4M"})
        root = await service.mount("v", "m")
        assert filled(root, 8 * MIB, "more") <= 2 * MIB
        assert service.troubles() == []
        await service.unmount("v", "m")


async def test_what_is_not_enforced_any_more_is_told(limited: Path, tmp_path: Path) -> None:
    """And enforced again as soon as it can be."""
    async with running(limited) as service:
        await service.provision.create("v", {**QUIET, "size": "4M"})
    remounted(limited, "noquota")
    async with running(limited) as service:
        root = await service.mount("v", "m")
        assert filled(root, 8 * MIB) == 8 * MIB
        (trouble,) = service.troubles()
        assert "its size of 4MiB is not enforced" in trouble
        assert checks.sizes([service.view("v")]).found == "v: 4MiB is not enforced"
        await service.unmount("v", "m")
    remounted(limited, "prjquota")
    async with running(limited) as service:
        root = await service.mount("v", "m")
        assert filled(root, MIB, "more") == 0
        assert service.troubles() == []
        await service.unmount("v", "m")


def remounted(disk: Path, option: str) -> None:
    unmount_below(disk)
    subprocess.run(["umount", str(disk)], check=True)
    options = ["-o", f"loop,{option}"]
    subprocess.run(["mount", *options, str(disk.parent / "image"), str(disk)], check=True)
