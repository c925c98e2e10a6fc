"""How often a Mount asks the file system for the same fact: each time lets other threads in."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.service import running

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


async def test_a_mount_of_one_that_nobody_has_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the live directory: whether it is there at the step's begin, in `prepare` and, since the
    lock was free between, in `mount`; then its limit, and its identity. Of the journal: twice.
    """
    asked: Counter[str] = Counter()
    stat = os.stat

    def counted(path: Any, **more: Any) -> os.stat_result:
        asked[str(path)] += 1
        return stat(path, **more)

    async with running(tmp_path) as service:
        await service.provision.create("v", {"interval": "30d"})
        await service.mount("v", "m")
        await service.unmount("v", "m")
        monkeypatch.setattr(os, "stat", counted)
        await service.mount("v", "m")
        monkeypatch.undo()
        await service.unmount("v", "m")
    below = f"{tmp_path}/state/volumes/"
    volume = {path.removeprefix(below): n for path, n in asked.items() if path.startswith(below)}
    assert volume == {"1/live": 5, "1/repair": 2}
