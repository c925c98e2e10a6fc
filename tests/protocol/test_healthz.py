"""What /healthz answers while work in the background fails, and once it goes on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from diffkeeper import limits
from diffkeeper.api.checks import CheckedPaths
from diffkeeper.api.health import Health
from diffkeeper.api.server import Server
from diffkeeper.service import maintenance_thread
from diffkeeper.service.usage_schedule import UsageSchedule
from diffkeeper.space.maintenance import Maintenance
from tests.support.gate import SECONDS_MAX
from tests.support.service import running

if TYPE_CHECKING:
    from pathlib import Path


async def asked(health: Health) -> str:
    """Status line and body."""
    host, port = health.listen.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return f"{head.splitlines()[0]} {body}"


async def answered(health: Health, *words: str) -> None:
    """Wait for an answer with all these words."""
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            answer = await asked(health)
            if all(word in answer for word in words):
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("owner", "step", "told"),
    [
        (UsageSchedule, "run_forever", "counting failed, and is begun again"),
        (Maintenance, "run_slice", "maintenance failed"),
    ],
)
async def test_a_defect_in_the_background_shows_until_the_work_goes_on(
    owner: type, step: str, told: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffkeeper.service.tasks.BACKGROUND_RETRY_SECONDS", 0.5)
    monkeypatch.setattr(limits, "MAINTENANCE_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(maintenance_thread, "MAINTENANCE_TURN_SECONDS", 0.1)
    broken, real = True, getattr(owner, step)

    def work(*arguments: Any) -> Any:
        if broken:
            raise KeyError("a defect")
        return real(*arguments)

    monkeypatch.setattr(owner, step, work)
    async with running(base) as service:
        health = Health(service)
        health.loading = False
        server = Server(service, health, CheckedPaths(str(base), "/sys/fs/cgroup", "/proc"))
        await server.serve_tcp(("127.0.0.1", 0))
        await answered(health, "503", told, "a defect")
        broken = False
        await answered(health, "200 OK", "ok\n")
        await server.stop_listening()
        await server.close()
