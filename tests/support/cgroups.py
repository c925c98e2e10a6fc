"""A cgroup of its own, of either version."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Final

import pytest

from diffkeeper.freeze.cgroups import Hierarchy

ROOT: Final = "/sys/fs/cgroup"
REMOVE_SECONDS_MAX: Final = 20.0


def fresh(version: str, name: str) -> str:
    """Makes a cgroup of version `v1` (of its freezer) or `v2`; skips where the machine has none."""
    hierarchy = Hierarchy(ROOT)
    mount = hierarchy.v1 if version == "v1" else hierarchy.v2
    if not mount:
        pytest.skip(f"no cgroup {version} freezer is mounted here")
    if not os.access(mount, os.W_OK):
        pytest.skip("making cgroups needs a writable cgroup file system")
    directory = f"{mount}/diffkeeper-{name}-{os.getpid()}"
    os.mkdir(directory)
    return directory


def remove(directory: str | Path) -> None:
    """Thaws and removes a cgroup, and those below it, whose processes are ending."""
    top = Path(directory)
    for each in top.glob("**/"):
        for name, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            if (each / name).exists():
                (each / name).write_text(value)
    deadline = time.monotonic() + REMOVE_SECONDS_MAX
    while top.exists():
        # One whose processes are just ending is still busy.
        for each in sorted(top.glob("**/"), reverse=True):
            with contextlib.suppress(OSError):
                each.rmdir()
        assert time.monotonic() < deadline, f"{top} stays busy"
        time.sleep(0.002)
