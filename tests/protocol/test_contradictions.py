"""What a daemon finds of a volume, and what does not follow from the end of the last one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper.format.ids import Root
from diffkeeper.integrity.repair import RepairJournal
from diffkeeper.store.store import Batch, Store
from tests.support.daemon import unmount_below
from tests.support.service import running, status_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffkeeper.service.service import VolumeService

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    unmount_below(tmp_path)


async def left_mounted(base: Path) -> Path:
    """The daemon ends while a volume is mounted, and the journal of a repair appears."""
    async with running(base) as service:
        await service.provision.create("v", {"interval": "1h"})
        root = Path(await service.mount("v", "m"))
        (root / "a").write_text("x")
        view = await service.snapshot("v")
    journal = base / "state/volumes/1/repair"
    journal.write_bytes(RepairJournal(Root.fromhex(view.root), ((b"a", 1),)).encode())
    return journal


def troubled(service: VolumeService, text: str) -> bool:
    """Whether a trouble of the volume has this text."""
    return any(text in each for each in status_of(service).trouble)


async def test_a_mounted_volume_with_the_journal_of_a_repair(base: Path) -> None:
    """It is given up: containers may have written since."""
    journal = await left_mounted(base)
    async with running(base) as service:
        await service.mount("v", "n")  # after the takeover, or it opens the volume itself
        assert troubled(service, "settled is not possible: the volume is mounted")
        assert not journal.exists()
        await service.unmount("v", "m")


async def test_that_and_a_reboot(base: Path) -> None:
    """It is reported, and the container starts."""
    journal = await left_mounted(base)
    unmount_below(base)
    store = Store.open(f"{base}/state/store")
    store.commit(Batch(volumes=[replace(each, boot_id="before") for each in store.volumes()]))
    store.close()
    async with running(base) as service:
        await service.mount("v", "n")
        assert troubled(service, "repairing, which does not follow from reboot while it was")
        assert not journal.exists()
        await service.unmount("v", "n")
