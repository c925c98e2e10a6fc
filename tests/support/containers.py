"""Processes as those of a container: in a cgroup and a mount namespace of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path
from typing import Self

import pytest

from diffkeeper.freeze.cgroups import Hierarchy
from tests.support import cgroups
from tests.support.namespaces import in_namespace

CGROUP_ROOT = "/sys/fs/cgroup"


class Container:
    """Processes in a cgroup and a mount namespace of their own, with directories mounted."""

    _count = 0

    def __init__(self) -> None:
        hierarchy = Hierarchy(CGROUP_ROOT)
        top = hierarchy.v1 or hierarchy.v2
        if not top:
            pytest.skip("no cgroup freezer is mounted here")
        Container._count += 1
        self.cgroup = Path(top, f"diffkeeper-tests-{os.getpid()}-{Container._count}")
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, mounts: dict[Path, Path], script: str) -> None:
        """Mount what is to be seen at the places that are the values, then run a shell script."""
        self.cgroup.mkdir()
        lines = []
        for source, place in mounts.items():
            place.mkdir(exist_ok=True, parents=True)
            lines.append(f"mount --bind {source} {place}")
        lines += ["echo", script]
        command = in_namespace("\n".join(lines), cgroups=[self.cgroup])
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.read(1) == b"\n"

    def stop(self) -> None:
        """kill -9 of all of them, also from within a freeze that was left behind."""
        if self.process is None:
            return
        deadline = time.monotonic() + 10
        while pids := (self.cgroup / "cgroup.procs").read_text().split():
            assert time.monotonic() < deadline, "the processes do not end"
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
            time.sleep(0.02)
        self.process.communicate(timeout=20)
        self.process = None
        cgroups.remove(self.cgroup)
