"""The volumes of one daemon, without the daemon around them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from diffkeeper.service.service import VolumeService

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from diffkeeper.messages.volumes import StatusView


def status_of(service: VolumeService, name: str = "v") -> StatusView:
    """What `docker volume inspect` shows of a volume."""
    found = service.view(name).status
    assert found is not None
    return found


@contextlib.asynccontextmanager
async def running(base: Path) -> AsyncIterator[VolumeService]:
    """The service of a daemon that is stopped while everything is mounted."""
    service = VolumeService(
        f"{base}/state",
        f"{base}/mounts",
        cgroup_root="/sys/fs/cgroup",
        proc_root="/proc",
        ebpf="off",
    )
    await service.start()
    try:
        yield service
    finally:
        await service.stop()
