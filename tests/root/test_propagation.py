"""Whether a mount is seen outside of the mount namespace that it was made in."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from diffkeeper.fsio import propagation
from tests.support.namespaces import in_namespace

if TYPE_CHECKING:
    from pathlib import Path

# As an engine starts a managed plugin: `outer` is shared, and bound in a namespace of its own.
LOOK = """
import subprocess, sys
from diffkeeper.fsio import propagation
outer, inner, live = sys.argv[1:]
subprocess.run(["mount", "--bind", outer, inner], check=True)
subprocess.run(["mount", "--make-rshared", inner], check=True)
print(propagation.is_seen(inner, "/proc"))
subprocess.run(["mkdir", "-p", inner + "/1"], check=True)
subprocess.run(["mount", "--bind", live, inner + "/1"], check=True)
print(propagation.is_seen(inner + "/1", "/proc"))
"""


@pytest.mark.parametrize("shared", [True, False])
def test_a_shared_mount_directory(tmp_path: Path, shared: bool) -> None:
    outer, inner, live = tmp_path / "outer", tmp_path / "inner", tmp_path / "live"
    for directory in (outer, inner, live):
        directory.mkdir()
    (live / "file").write_text("x")
    # Its own mount, so that what happens here is of no concern to others.
    subprocess.run(["mount", "--bind", outer, outer], check=True)
    subprocess.run(["mount", "--make-private", outer], check=True)
    if shared:
        subprocess.run(["mount", "--make-shared", outer], check=True)
    try:
        look = (sys.executable, "-c", LOOK, outer, inner, live)
        command = in_namespace('exec "$@"', *look, propagation="unchanged")
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        # What is seen is there outside, what is not would be an empty directory.
        assert done.stdout.split() == [str(shared)] * 2
        assert (outer / "1").is_dir()
        seen = (outer / "1" / "file").exists()
        assert seen == shared
    finally:
        subprocess.run(["umount", "--recursive", outer], check=True)


def test_a_directory_that_is_no_mount_is_not_shared(tmp_path: Path) -> None:
    assert propagation.is_seen(str(tmp_path), "/proc")
