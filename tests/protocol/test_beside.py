"""What takes long of one volume keeps no container from starting on it."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from diffkeeper import limits
from diffkeeper.engine.verify import Verifier
from diffkeeper.errors import BusyError, ConflictError
from diffkeeper.volumes.service import VolumeService
from diffkeeper.volumes.trash import Trash

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

SECONDS_MAX = 20.0


class Gate:
    """Holds the real verification up until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def held(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def wait(*arguments: Any) -> Any:
            self.entered.set()
            assert self.opened.wait(SECONDS_MAX)
            return real(*arguments)

        return wait


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate()
    monkeypatch.setattr(Verifier, "live", made.held(Verifier.live))
    yield made
    made.opened.set()


@pytest.fixture
async def service() -> AsyncIterator[VolumeService]:
    with tempfile.TemporaryDirectory(prefix="dk-") as base:
        made = VolumeService(
            f"{base}/state",
            f"{base}/mounts",
            cgroup_root="/sys/fs/cgroup",
            proc_root="/proc",
            ebpf="off",
        )
        await made.start()
        await made.arrivals.create("v", {"interval": "1h"})
        root = Path(await made.mount("v", "first"))
        (root / "file").write_bytes(b"x" * 100_000)
        yield made
        for view in made.views():
            for mount_id in ("first", "second"):
                await made.unmount(view.name, mount_id)
        await made.stop()


async def entered(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.entered.wait, SECONDS_MAX)


def mounts(service: VolumeService) -> object:
    return service.view("v").status["mounts"]


async def test_a_container_starts_again_beside_the_last_look(
    service: VolumeService, gate: Gate
) -> None:
    unmounting = asyncio.create_task(service.unmount("v", "first"))
    await entered(gate)
    root = Path(await asyncio.wait_for(service.mount("v", "second"), SECONDS_MAX / 2))
    assert not unmounting.done()
    gate.opened.set()
    await asyncio.wait_for(unmounting, SECONDS_MAX)
    # The look has ended behind it, and takes nothing away.
    assert mounts(service) == 1
    (root / "later").write_bytes(b"y")
    newest = await service.snapshot("v")
    assert newest.files == 2
    await service.unmount("v", "second")
    assert mounts(service) == 0
    await service.remove("v")


async def test_a_container_starts_beside_a_verification(service: VolumeService, gate: Gate) -> None:
    verifying = asyncio.create_task(service.verify("v", None))
    await entered(gate)
    await asyncio.wait_for(service.mount("v", "second"), SECONDS_MAX / 2)
    await asyncio.wait_for(service.snapshot("v"), SECONDS_MAX / 2)
    gate.opened.set()
    report = await asyncio.wait_for(verifying, SECONDS_MAX)
    assert report.ok
    assert mounts(service) == 2


async def test_a_removal_ends_a_verification(service: VolumeService, gate: Gate) -> None:
    gate.opened.set()
    await service.unmount("v", "first")
    gate.opened.clear()
    gate.entered.clear()
    verifying = asyncio.create_task(service.verify("v", None))
    await entered(gate)
    await asyncio.wait_for(service.remove("v"), SECONDS_MAX / 2)
    gate.opened.set()
    with pytest.raises(ConflictError, match="removed"):
        await asyncio.wait_for(verifying, SECONDS_MAX)


async def test_what_is_released_twice_is_looked_at_once(service: VolumeService, gate: Gate) -> None:
    """Unmounts and mounts in any order while one look is under way leave the counts right."""
    first = asyncio.create_task(service.unmount("v", "first"))
    await entered(gate)
    await service.mount("v", "second")
    again = asyncio.create_task(service.unmount("v", "second"))
    await service.unmount("v", "unknown")
    gate.opened.set()
    await asyncio.wait_for(asyncio.gather(first, again), SECONDS_MAX)
    assert mounts(service) == 0
    await service.remove("v")


async def test_a_name_that_is_being_removed_is_another_volume_afterwards(
    service: VolumeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Create waits for a removal that its caller gave up, and is not undone by it."""
    gate = Gate()
    monkeypatch.setattr(Trash, "take", gate.held(Trash.take))
    monkeypatch.setattr(limits, "REMOVE_SECONDS_MAX", 0.2)
    before = service.view("v").status["id"]
    await service.unmount("v", "first")
    removing = asyncio.create_task(service.remove("v"))
    await entered(gate)
    with pytest.raises(BusyError, match="is being removed"):
        await removing
    with pytest.raises(BusyError, match="still being removed"):
        await service.arrivals.create("v", {"interval": "1h"})
    monkeypatch.setattr(limits, "REMOVE_SECONDS_MAX", SECONDS_MAX)
    creating = asyncio.create_task(service.arrivals.create("v", {"interval": "1h"}))
    await asyncio.sleep(0.05)
    assert not creating.done()
    gate.opened.set()
    await asyncio.wait_for(creating, SECONDS_MAX)
    assert service.view("v").status["id"] != before
    assert await service.mount("v", "second")


async def test_options_and_names_wait_for_the_last_look(service: VolumeService, gate: Gate) -> None:
    unmounting = asyncio.create_task(service.unmount("v", "first"))
    await entered(gate)
    with pytest.raises(BusyError, match="something else"):
        await service.changes.rename("v", "w")
    setting = asyncio.create_task(service.changes.set_options("v", {"interval": "2h"}))
    await asyncio.sleep(0.05)
    assert not setting.done()
    gate.opened.set()
    await asyncio.wait_for(asyncio.gather(unmounting, setting), SECONDS_MAX)
    assert mounts(service) == 0
    await service.changes.rename("v", "w")
    await service.changes.rename("w", "v")
