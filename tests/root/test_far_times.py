"""Every time stamp that a file system holds is recorded and set again."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from diffkeeper.integrity.verify import Verifier
from diffkeeper.snapshot.policy import CapturePolicy
from tests.support import disks
from tests.support.capture_rig import CaptureRig
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The last second that each can hold; what lies before its first one is set to that by the kernel.
LAST = {"ext4": 15_032_385_535, "xfs": 16_299_260_424, "btrfs": 2**63 - 1, "tmpfs": 2**63 - 1}
FIRST = -(2**63)
NANOSECONDS = 999_999_999


@contextlib.contextmanager
def file_system(kind: str, base: Path) -> Iterator[Path]:
    if kind != "tmpfs":
        with disks.file_system(kind, base) as mount:
            yield mount
        return
    mount = base / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(mount)], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


@pytest.mark.parametrize("kind", LAST)
@pytest.mark.parametrize("source", ["inotify", "scan"])
def test_every_time_stamp_is_recorded(kind: str, source: str, tmp_path: Path) -> None:
    with (
        file_system(kind, tmp_path) as disk,
        CaptureRig(disk, CapturePolicy(source=source)) as rig,
    ):
        stamps = {
            "last": LAST[kind] * 10**9,
            "before-last": (LAST[kind] - 1) * 10**9 + NANOSECONDS,
            "first": FIRST * 10**9,
            "past": -12345 * 10**9 + 1,
            "narrow": 2**63 - 1,
            "wide": 2**63,
        }
        for name, ns in stamps.items():
            (rig.live / name).write_bytes(b"x")
            os.link(rig.live / name, rig.live / f"{name}-again")
            (rig.live / f"{name}-directory").mkdir()
            os.symlink(name, rig.live / f"{name}-symlink")
            for suffix in ("", "-directory", "-symlink"):
                path = rig.live / (name + suffix)
                os.utime(path, ns=(ns, ns), follow_symlinks=False)
        assert (rig.live / "last").stat().st_mtime_ns == stamps["last"]
        snapshot = rig.capture()
        assert snapshot.consistency == "crash"
        replayed = rig.replay(snapshot, "replayed")
        assert difference(describe(replayed), describe(rig.live)) == []
        assert Verifier(rig.store, rig.reader).live(str(rig.live), snapshot.root).mismatches == []
        assert rig.capture() == snapshot, "it was recorded, and has not changed"
        os.utime(rig.live / "last", ns=(0, 2**63))
        assert rig.capture().seq == snapshot.seq + 1
