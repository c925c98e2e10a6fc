"""A volume whose live directory is written to while it is removed."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from diffkeeper import limits
from tests.support.daemon import write_states
from tests.support.service import running

if TYPE_CHECKING:
    from diffkeeper.volumes.volume import Volume
    from tests.support.daemon import Daemon

START_SECONDS_MAX = 20.0
BETWEEN_WRITES_SECONDS = 0.0005

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def test_what_is_written_to_during_its_removal_is_kept_as_it_is(daemon: Daemon) -> None:
    """Something on the host writes on: no snapshot is one instant, and the directory stays."""
    write_states(daemon, 1)
    live = Path(daemon.admin("GET", "/v1/volumes/v")["status"]["live"])
    (live / "b").write_bytes(os.urandom(4 * limits.MIB))
    daemon.ok("Unmount", Name="v", ID="w")
    ended, writing = threading.Event(), threading.Event()

    def write_on() -> None:
        # Ahead of whatever else this machine is busy with, where root may be: it writes all through
        # the removal. Zero is this thread alone.
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        with open(live / "b", "r+b", buffering=0) as file:
            while not ended.wait(BETWEEN_WRITES_SECONDS):
                os.pwrite(file.fileno(), os.urandom(4096), random.randrange(1000) * 4096)
                writing.set()

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        assert writing.wait(START_SECONDS_MAX)
        daemon.ok("Remove", Name="v")
    finally:
        ended.set()
        writer.join()
    content = (live / "b").read_bytes()
    daemon.stop(9)
    daemon.start()
    (found,) = daemon.admin("GET", "/v1/trash")
    assert found["live"] is True
    assert daemon.cli("undelete", "v").returncode == 0
    mountpoint = Path(daemon.ok("Mount", Name="v", ID="w")["Mountpoint"])
    assert (mountpoint / "b").read_bytes() == content


async def test_what_is_written_to_after_its_last_capture_is_kept(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written during that capture, so that its snapshot is one instant."""
    async with running(base) as service:
        await service.provision.create("v", {"interval": "1h"})
        capture = service._capture

        def then_write(volume: Volume, reason: str, **how: Any) -> None:
            capture(volume, reason, **how)
            assert volume.state.head is not None
            assert (volume.state.head.consistency, volume.state.head.cause) == ("crash", "")
            (Path(volume.live) / "a").write_bytes(b"late")

        monkeypatch.setattr(service, "_capture", then_write)
        await service.remove("v")
        (record,) = service.history.trash.records()
    assert record.clean is False
    assert (base / "state" / "volumes" / "1" / "live" / "a").read_bytes() == b"late"
