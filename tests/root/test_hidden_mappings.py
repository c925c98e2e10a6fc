"""Stores through mappings of processes that have no mount of the volume."""

from __future__ import annotations

import mmap
import os
import sys
from typing import TYPE_CHECKING

import pytest

from diffkeeper import limits
from diffkeeper.freeze.outside import Outside
from diffkeeper.snapshot.policy import CapturePolicy
from tests.support import disks
from tests.support.capture_rig import CaptureRig
from tests.support.containers import Container
from tests.support.storer import store

if TYPE_CHECKING:
    from pathlib import Path

FREEZE_SECONDS = 2.0
# Stores numbers in one page through a mapping, each when it is told to. argv: file, signals.
STORER = """
import mmap, os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 4096)
memory = mmap.mmap(fd, 4096)
os.close(fd)
memory[:8] = b"%08d" % 0
for number in range(1, 1000):
    while not os.path.exists(f"{sys.argv[2]}/go{number}"):
        time.sleep(0.002)
    memory[:8] = b"%08d" % number
    open(f"{sys.argv[2]}/done{number}", "w").close()
"""


@pytest.mark.parametrize("source", ["inotify", "scan"])
def test_a_container_in_a_container(source: str, tmp_path: Path) -> None:
    """It has the volume by the upper directory of an overlay alone, which the inner engine made."""
    signals = tmp_path / "signals"
    signals.mkdir()
    with disks.file_system("ext4", tmp_path, 200 * limits.MIB) as disk:
        policy = CapturePolicy(source=source, freeze_seconds_max=FREEZE_SECONDS)
        (disk / "live").mkdir()
        (tmp_path / "base").mkdir()
        with (
            CaptureRig(tmp_path / "base", policy, live=disk / "live") as rig,
            Container() as container,
        ):
            for name in ("upper", "work", "lower"):
                (rig.live / name).mkdir()
            (rig.live / "lower" / "data").write_bytes(b"of a lower layer")
            seen, merged = tmp_path / "seen", tmp_path / "merged"
            merged.mkdir()
            options = f"lowerdir={seen}/lower,upperdir={seen}/upper,workdir={seen}/work"
            program = tmp_path / "storer.py"
            program.write_text(STORER)
            run = f"exec {sys.executable} {program} {merged}/data {signals}"
            script = f"mount -t overlay overlay -o {options} {merged}\n"
            script += f"unshare -m sh -c 'umount {seen} && {run}' &\nexec sleep 1000"
            container.start({rig.live: seen}, script)
            store(signals, 1)
            os.sync()
            for number in range(2, 6):
                rig.capture("interval")
                store(signals, number)
                assert rig.watched.pending(rig.writers())
                snapshot = rig.capture("interval")
                assert snapshot.consistency == "crash", snapshot.cause
                top = rig.replay(snapshot, f"replay{number}")
                assert (top / "upper" / "data").read_bytes()[:8] == b"%08d" % number


@pytest.mark.parametrize("source", ["inotify", "scan"])
def test_a_process_of_the_host(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not frozen, so that no snapshot is an instant while it has a file mapped."""
    monkeypatch.setattr("diffkeeper.freeze.outside.OUTSIDE_SECONDS", 0.0)
    policy = CapturePolicy(source=source, freeze_seconds_max=FREEZE_SECONDS)
    (tmp_path / "live").mkdir()
    with CaptureRig(tmp_path, policy) as rig, Container() as container:
        container.start({rig.live: tmp_path / "seen"}, "exec sleep 1000")
        path = rig.live / "mapped"
        path.write_bytes(bytes(4096))
        assert rig.capture().consistency == "crash"
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 4096) as memory:
            for number in range(4):
                memory[:8] = b"%08d" % number
                assert rig.watched.pending(rig.writers())
                snapshot = rig.capture("interval")
                assert snapshot.consistency == "fuzzy"
                assert f"mapped by process {os.getpid()}, which is not frozen" in snapshot.cause
                top = rig.replay(snapshot, f"replay{number}")
                assert (top / "mapped").read_bytes()[:8] == b"%08d" % number
        assert rig.capture("interval").consistency == "crash"


def test_all_processes_are_looked_at_once_for_all_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = Outside()
    looks: list[int] = []
    everything = outside._scanner.everything

    def counted(pid: int) -> set[tuple[str, int]]:
        looks.append(pid)
        return everything(pid)

    monkeypatch.setattr(outside._scanner, "everything", counted)
    first = outside.mapped("0:1")
    count = len(looks)
    assert count > 1
    for number in range(100):
        assert outside.mapped(f"0:{number}") is outside.mapped(f"0:{number}")
    assert outside.mapped("0:1") is first
    assert len(looks) == count
