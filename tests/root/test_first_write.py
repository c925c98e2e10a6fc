"""A container that had only read writes to its volumes while one of them is captured alone."""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper.freeze import observers
from diffkeeper.snapshot.volume_capture import VolumeCapture
from tests.support.containers import Container
from tests.support.service import running, status_of

if TYPE_CHECKING:
    from diffkeeper.messages.snapshots import SnapshotView
    from diffkeeper.service.service import VolumeService

SECONDS_MAX = 20.0
# Once it is told to, it writes first to the one and then to the other, as a journal is written
# before what it is about.
SCRIPT = """
while [ ! -e {0}/go ]; do sleep .01; done
echo new > {0}/seen/first/file
echo new > {0}/seen/second/file
: > {0}/done
exec sleep 1000
"""


@pytest.mark.parametrize("phase", ["precopy", "end_scans"])
async def test_all_that_it_writes_is_of_one_instant(
    phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was captured alone, beside the first write, is not recorded as it is."""
    monkeypatch.setattr(observers, "OBSERVER_SECONDS", 0.0)

    def write() -> None:
        (tmp_path / "go").touch()
        deadline = time.monotonic() + SECONDS_MAX
        while not (tmp_path / "done").exists():
            assert time.monotonic() < deadline, "the container does not write"
            time.sleep(0.01)

    with tempfile.TemporaryDirectory(prefix="dk-") as base, contextlib.ExitStack() as stack:
        container, *own = (stack.enter_context(Container()) for _ in range(3))
        async with running(Path(base)) as service:
            roots = {name: await mounted(service, name) for name in ("first", "second")}
            container.start(
                {root: tmp_path / "seen" / name for name, root in roots.items()},
                SCRIPT.format(tmp_path),
            )
            for writer, (name, root) in zip(own, roots.items(), strict=True):
                writer.start({root: tmp_path / "own" / name}, "exec sleep 1000")
            for name in ("first", "second", "first"):
                await changed(service, name, roots[name])
            alone = await changed(service, "second", roots["second"])
            assert alone.members == {}, "the container counts as an observer"
            (roots["second"] / "other").write_text("due")
            once = getattr(VolumeCapture, phase)

            def interrupted(*arguments: object) -> None:
                monkeypatch.setattr(VolumeCapture, phase, once)
                write()
                once(*arguments)

            monkeypatch.setattr(VolumeCapture, phase, interrupted)
            taken = await service.snapshot("second")
            assert taken.consistency == "crash"
            assert taken.members.keys() == {"first", "second"}
            for name, seq in taken.members.items():
                newest = status_of(service, name).last_snapshot
                assert newest is not None
                assert newest.seq == seq
                assert (await service.verify(name, None)).ok
            for each in (container, *own):
                each.stop()
            for name in roots:
                await service.unmount(name, "mount")


async def mounted(service: VolumeService, name: str) -> Path:
    await service.provision.create(name, {"interval": "1h"})
    return Path(await service.mount(name, "mount"))


async def changed(service: VolumeService, name: str, root: Path) -> SnapshotView:
    (root / "by-the-host").write_text(str(time.monotonic_ns()))
    return await service.snapshot(name)
