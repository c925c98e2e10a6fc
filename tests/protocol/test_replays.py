"""Live directories that are gone are replayed before they are asked for, and for as long as it
takes, whoever waits for them.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper import counters, limits
from diffkeeper.api.checks import CheckedPaths
from diffkeeper.api.health import Health
from diffkeeper.api.server import Server, claim_socket
from diffkeeper.errors import BusyError
from diffkeeper.replay import replay
from diffkeeper.volumes import live
from tests.support.daemon import unmount_below
from tests.support.gate import SECONDS_MAX, WorkGate
from tests.support.service import running, status_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffkeeper.service.service import VolumeService

CONTENT = b"x" * 100_000


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkGate]:
    made = WorkGate()
    monkeypatch.setattr(live, "restore", made.held(replay.restore))
    yield made
    made.opened.set()


async def lost(base: Path, *names: str) -> None:
    """Volumes that were in use, whose live directories are gone."""
    async with running(base) as service:
        for name in names:
            await service.provision.create(name, {"interval": "1h"})
            root = Path(await service.mount(name, "m"))
            (root / "file").write_bytes(CONTENT)
            await service.snapshot(name)
    unmount_below(base)
    for path in (base / "state" / "volumes").glob("*/live"):
        shutil.rmtree(path)


def recovery(service: VolumeService, name: str = "v") -> object:
    found = status_of(service, name).last_recovery
    return found.kind if found is not None else None


async def entered(gate: WorkGate, times: int = 1) -> None:
    for _ in range(times):
        assert await asyncio.to_thread(gate.inside.acquire, timeout=SECONDS_MAX)


async def until_replayed(service: VolumeService, name: str = "v") -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while recovery(service, name) is None:  # noqa: ASYNC110  # nothing tells it
            await asyncio.sleep(0.01)


async def test_it_is_replayed_before_anybody_asks(base: Path) -> None:
    await lost(base, "v")
    async with running(base) as service:
        await until_replayed(service)
        assert recovery(service) == "replay"
        root = Path(await service.mount("v", "n"))
        assert (root / "file").read_bytes() == CONTENT
        assert recovery(service) == "replay", "this is how it came to be there for this mount"
        assert status_of(service).trouble == []


async def test_a_mount_joins_the_replay_that_is_under_way(base: Path, gate: WorkGate) -> None:
    await lost(base, "v")
    async with running(base) as service:
        await entered(gate)
        mounting = asyncio.create_task(service.mount("v", "n"))
        await asyncio.sleep(0.05)
        assert not mounting.done()
        shown = status_of(service).replay
        assert shown is not None
        assert (shown.files, shown.files_in_all, shown.bytes_in_all) == (0, 1, 100_000)
        gate.opened.set()
        await asyncio.wait_for(mounting, SECONDS_MAX)
        assert not gate.inside.acquire(blocking=False), "it was replayed twice"
        assert status_of(service).replay is None


async def test_a_mount_that_gives_up_lets_the_replay_go_on(base: Path, gate: WorkGate) -> None:
    await lost(base, "v")
    async with running(base) as service:
        await entered(gate)
        with pytest.raises(BusyError, match=r"replayed \(0 of 1 files\); start the container"):
            await service.mount("v", "n", 0.1)
        gate.opened.set()
        await until_replayed(service)
        await service.mount("v", "n", 5)
        assert not gate.inside.acquire(blocking=False)
        assert recovery(service) == "replay"


async def test_mounts_go_before_what_is_only_foreseen(base: Path, gate: WorkGate) -> None:
    names = [f"v{number}" for number in range(limits.REPLAYS_MAX)]
    await lost(base, *names)
    async with running(base) as service:
        await entered(gate, limits.REPLAYS_MAX // 2)
        await asyncio.sleep(0.05)
        assert not gate.inside.acquire(blocking=False), "more than half is begun unasked"
        last = max(names, key=lambda name: status_of(service, name).replay is None)
        mounting = asyncio.create_task(service.mount(last, "n"))
        await entered(gate)
        gate.opened.set()
        await asyncio.wait_for(mounting, SECONDS_MAX)
        for name in names:
            await until_replayed(service, name)


async def test_replays_stop_no_other_volume(base: Path, gate: WorkGate) -> None:
    """Containers start, end and start again beside more replays than there are threads for."""
    names = [f"v{number}" for number in range(2 * limits.REPLAYS_MAX)]
    await lost(base, *names)
    async with running(base) as service:
        mounting = [asyncio.create_task(service.mount(name, "n")) for name in names]
        await entered(gate, limits.REPLAYS_MAX)
        async with asyncio.timeout(SECONDS_MAX / 2):
            await service.provision.create("other", {"interval": "1h"})
            for _ in range(2):
                root = Path(await service.mount("other", "n"))
                (root / "file").write_bytes(CONTENT)
                await service.unmount("other", "n")
            assert (await service.snapshot("other")).files == 1
            await service.remove("other")
        assert not any(task.done() for task in mounting)
        gate.opened.set()
        await asyncio.wait_for(asyncio.gather(*mounting), SECONDS_MAX)


async def test_what_has_no_live_directory_yet_gets_none(base: Path) -> None:
    """A clone, and what comes back from the trash: neither is in use before its first mount."""
    async with running(base) as service:
        await service.provision.create("v", {"interval": "1h"})
        root = Path(await service.mount("v", "m"))
        (root / "file").write_bytes(CONTENT)
        await service.snapshot("v")
        await service.unmount("v", "m")
        await service.provision.create("clone", {"from": "v"})
        await service.remove("v")
        await service.provision.undelete("v", None)
    async with running(base) as service:
        await asyncio.sleep(0.3)
        assert recovery(service, "v") is recovery(service, "clone") is None
        assert list((base / "state" / "volumes").glob("*/live")) == []


async def test_a_daemon_that_stops_waits_for_no_replay(base: Path, gate: WorkGate) -> None:
    await lost(base, "v")
    async with running(base):
        await entered(gate)
    gate.opened.set()
    async with asyncio.timeout(SECONDS_MAX):
        while any(  # noqa: ASYNC110  # nothing tells it
            thread.name.startswith("replay") for thread in threading.enumerate()
        ):
            await asyncio.sleep(0.01)
    assert list((base / "state" / "volumes").glob("*/live")) == []
    async with running(base) as service:
        await until_replayed(service)


async def test_the_first_error_is_the_one_that_is_shown(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when what was written cannot be taken away: that is told beside it."""

    def fail(root: bytes, objects: object, incoming: str, **_: object) -> None:
        os.mkdir(f"{incoming}/mounted")
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", f"{incoming}/mounted"], check=True)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    await lost(base, "v")
    monkeypatch.setattr(live, "restore", fail)
    async with running(base) as service:
        async with asyncio.timeout(SECONDS_MAX):
            while "No space" not in str(service.troubles()):  # noqa: ASYNC110  # nothing tells it
                await asyncio.sleep(0.01)
        (trouble,) = service.troubles()
        text = r"No space left on device; what it .* stays for now: .*something is mounted there"
        assert re.search(text, trouble)
        key = "replay_failures_total", (("error", "NoSpaceError"), ("volume", "v"))
        assert counters.counts()[key] >= 1
    unmount_below(base)


async def test_how_long_the_engine_waits_is_learnt(
    base: Path, gate: WorkGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that gave up gets an answer the next time, before it gives up again."""
    monkeypatch.setattr("diffkeeper.api.driver.MOUNT_GIVEN_UP_SECONDS", 0.3)
    monkeypatch.setattr("diffkeeper.api.driver.MOUNT_SECONDS_SHORT", 0.2)
    monkeypatch.setattr("diffkeeper.api.driver.MOUNT_LOOK_SECONDS", 0.05)
    await lost(base, "v")
    async with running(base) as service:
        health = Health(service)
        server = Server(service, health, CheckedPaths(str(base), "/sys/fs/cgroup", "/proc"))
        await server.serve_socket(claim_socket(str(base / "d.sock")))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asked(base), 0.5)
        told = ""
        while "not mounted yet: its data" not in told:  # until it has seen that it was left
            told = await asyncio.wait_for(asked(base), SECONDS_MAX)
        gate.opened.set()
        while "not mounted yet" in told:
            told = await asyncio.wait_for(asked(base), SECONDS_MAX)
        assert json.loads(told.partition("\r\n\r\n")[2])["Err"] == ""
        await server.stop_listening()
        await server.close()


async def asked(base: Path) -> str:
    """One Mount as dockerd sends it; leaves when it is cancelled."""
    reader, writer = await asyncio.open_unix_connection(str(base / "d.sock"))
    try:
        body = json.dumps({"Name": "v", "ID": "n"}).encode()
        head = b"POST /VolumeDriver.Mount HTTP/1.1\r\nHost: d\r\nConnection: close\r\n"
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        return (await reader.read()).decode()
    finally:
        writer.close()
