"""What takes long of one volume keeps no container from starting on it."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from diffkeeper import limits
from diffkeeper.errors import BusyError, ConflictError, DiffKeeperError
from diffkeeper.history.references import parse_reference
from diffkeeper.history.trash import Trash
from diffkeeper.integrity.verify import Verifier
from diffkeeper.service.capture_slots import FIRST_CAPTURES_MAX
from diffkeeper.service.workers import FINAL_CAPTURES_MAX, LONG_THREADS, STEP_THREADS
from diffkeeper.snapshot import group_capture
from diffkeeper.store import page_check
from tests.support.gate import SECONDS_MAX, WorkGate
from tests.support.service import running, status_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator

    from diffkeeper.service.service import VolumeService

Crowd = list["asyncio.Task[Any]"]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkGate]:
    made = WorkGate()
    monkeypatch.setattr(Verifier, "live", made.held(Verifier.live))
    yield made
    made.opened.set()


@pytest.fixture
async def service() -> AsyncIterator[VolumeService]:
    with tempfile.TemporaryDirectory(prefix="dk-") as base:
        async with running(Path(base)) as made:
            await made.provision.create("v", {"interval": "1h"})
            root = Path(await made.mount("v", "first"))
            (root / "file").write_bytes(b"x" * 100_000)
            yield made
            for view in made.views():
                for mount_id in ("first", "second"):
                    await made.unmount(view.name, mount_id)


async def entered(gate: WorkGate) -> None:
    assert await asyncio.to_thread(gate.entered.wait, SECONDS_MAX)


def mounts(service: VolumeService) -> object:
    return status_of(service).mounts


async def test_a_container_starts_again_beside_the_last_look(
    service: VolumeService, gate: WorkGate
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


async def test_a_container_starts_beside_a_verification(
    service: VolumeService, gate: WorkGate
) -> None:
    verifying = asyncio.create_task(service.verify("v", None))
    await entered(gate)
    await asyncio.wait_for(service.mount("v", "second"), SECONDS_MAX / 2)
    await asyncio.wait_for(service.snapshot("v"), SECONDS_MAX / 2)
    gate.opened.set()
    report = await asyncio.wait_for(verifying, SECONDS_MAX)
    assert report.ok
    assert mounts(service) == 2


async def test_a_removal_ends_a_verification(service: VolumeService, gate: WorkGate) -> None:
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


async def test_what_is_released_twice_is_looked_at_once(
    service: VolumeService, gate: WorkGate
) -> None:
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
    gate = WorkGate()
    monkeypatch.setattr(Trash, "remove", gate.held(Trash.remove))
    monkeypatch.setattr(limits, "REMOVE_SECONDS_MAX", 0.2)
    before = status_of(service).id
    await service.unmount("v", "first")
    removing = asyncio.create_task(service.remove("v"))
    await entered(gate)
    with pytest.raises(BusyError, match="is being removed"):
        await removing
    with pytest.raises(BusyError, match="still being removed"):
        await service.provision.create("v", {"interval": "1h"})
    monkeypatch.setattr(limits, "REMOVE_SECONDS_MAX", SECONDS_MAX)
    creating = asyncio.create_task(service.provision.create("v", {"interval": "1h"}))
    await asyncio.sleep(0.05)
    assert not creating.done()
    gate.opened.set()
    await asyncio.wait_for(creating, SECONDS_MAX)
    assert status_of(service).id != before
    assert await service.mount("v", "second")


async def test_options_and_names_wait_for_the_last_look(
    service: VolumeService, gate: WorkGate
) -> None:
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


async def crowd(gate: WorkGate, held: int, work: Iterable[Coroutine[Any, Any, Any]]) -> Crowd:
    """Begin all of it; returns once so many threads are held up."""
    tasks = [asyncio.create_task(each) for each in work]
    for _ in range(held):
        assert await asyncio.to_thread(gate.inside.acquire, timeout=SECONDS_MAX)
    return tasks


async def released(gate: WorkGate, tasks: Crowd) -> None:
    assert not any(task.done() for task in tasks)
    gate.opened.set()
    await asyncio.wait_for(asyncio.gather(*tasks), SECONDS_MAX)


async def test_verifications_stop_neither_queries_nor_history(
    service: VolumeService, gate: WorkGate
) -> None:
    """However many there are: nothing else is done by their threads."""
    many = 2 * LONG_THREADS
    tasks = await crowd(gate, LONG_THREADS, [service.verify("v", None) for _ in range(many)])
    async with asyncio.timeout(SECONDS_MAX / 2):
        await service.snapshot("v")
        assert await service.history.snapshots("v")
        assert (await service.history.resolve("v", parse_reference("latest"))).seq
        await service.history.thin()
        await service.history._attempt(service.history.retention.sweep, [])
    await released(gate, tasks)


async def test_removals_stop_no_other_volume(
    service: VolumeService, gate: WorkGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"old{number}" for number in range(STEP_THREADS + 1)]
    for name in names:
        await service.provision.create(name, {})
    monkeypatch.setattr(Trash, "remove", gate.held(Trash.remove))
    tasks = await crowd(gate, FINAL_CAPTURES_MAX, [service.remove(name) for name in names])
    async with asyncio.timeout(SECONDS_MAX / 2):
        await service.provision.create("new", {})
        await service.mount("new", "first")
        await service.unmount("new", "unknown")
    await released(gate, tasks)


async def test_an_import_waits_for_nothing_that_is_long(
    service: VolumeService, gate: WorkGate
) -> None:
    """Maintenance, which is long, may wait for its end."""
    many = LONG_THREADS + 1
    tasks = await crowd(gate, LONG_THREADS, [service.verify("v", None) for _ in range(many)])

    async def pieces() -> AsyncIterator[bytes]:
        yield b"not an archive"

    async with asyncio.timeout(SECONDS_MAX / 2):
        with pytest.raises(DiffKeeperError):
            await service.provision.import_volume("new", pieces())
    await released(gate, tasks)


async def test_first_captures_stop_no_others(
    service: VolumeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, and however long each of them takes."""
    await service.snapshot("v")
    gate, real = WorkGate(), group_capture.capture
    held = gate.held(real)

    def capture(members: list[group_capture.GroupVolume], *arguments: Any, **named: Any) -> Any:
        mine = service._registry.find("v").watched
        first = all(member.watched is not mine for member in members)
        return (held if first else real)(members, *arguments, **named)

    monkeypatch.setattr(group_capture, "capture", capture)
    names = [f"huge{number}" for number in range(2 * limits.CAPTURES_MAX)]
    for name in names:
        await service.provision.create(name, {"interval": "1h"})
        (Path(await service.mount(name, "first")) / "file").write_bytes(b"x")
    tasks = await crowd(gate, FIRST_CAPTURES_MAX, map(service.snapshot, names))
    (Path(service.mountpoint("v")) / "file").write_bytes(b"y")
    async with asyncio.timeout(SECONDS_MAX / 2):
        assert (await service.snapshot("v")).seq == 2
    await released(gate, tasks)


async def test_a_container_starts_again_beside_its_first_capture(
    service: VolumeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Unmount before waits for that capture, and for the one that follows it."""
    gate = WorkGate()
    monkeypatch.setattr(group_capture, "capture", gate.held(group_capture.capture))
    capturing = asyncio.create_task(service.snapshot("v"))
    await entered(gate)
    unmounting = asyncio.create_task(service.unmount("v", "first"))
    await asyncio.sleep(0.05)
    root = Path(await asyncio.wait_for(service.mount("v", "second"), SECONDS_MAX / 2))
    (root / "later").write_bytes(b"y")
    assert not capturing.done()
    assert not unmounting.done()
    gate.opened.set()
    await asyncio.wait_for(asyncio.gather(capturing, unmounting), SECONDS_MAX)
    assert mounts(service) == 1
    assert (await service.snapshot("v")).files == 2


async def test_compacting_stops_no_container(
    service: VolumeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A capture waits for the copy, and an Unmount for its capture; who mounts waits for none."""
    await service.snapshot("v")
    gate = WorkGate()
    monkeypatch.setattr(page_check, "check", gate.held(page_check.check))  # begins the copy
    compacting = asyncio.create_task(service.store_care.compact())
    await entered(gate)
    (Path(service.mountpoint("v")) / "file").write_bytes(b"y")
    unmounting = asyncio.create_task(service.unmount("v", "first"))
    await asyncio.sleep(0.05)
    async with asyncio.timeout(SECONDS_MAX / 2):
        await service.mount("v", "second")
        await service.provision.create("new", {"interval": "1h"})
        await service.mount("new", "first")
        await service.mount("new", "second")
        await service.unmount("new", "second")
    assert not compacting.done()
    gate.opened.set()
    await asyncio.wait_for(asyncio.gather(compacting, unmounting), SECONDS_MAX)
    assert mounts(service) == 1
    assert (await service.snapshot("v")).seq == 2
