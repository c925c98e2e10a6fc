"""A cgroup of its own, of either version."""

from __future__ import annotations

import os
from typing import Final

import pytest

from diffkeeper.freeze.cgroups import Hierarchy

ROOT: Final = "/sys/fs/cgroup"


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
