"""The host's name of a directory, from inside of a mount namespace such as the managed plugin's."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from diffkeeper.fsio import hostpath
from tests.support import disks
from tests.support.namespaces import in_namespace

if TYPE_CHECKING:
    from pathlib import Path

# In a namespace of its own the host's directory is bound elsewhere without what is mounted below.
LOOK = """
import json, subprocess, sys
from diffkeeper.api import checks
from diffkeeper.fsio import hostpath
source, point, *directories = sys.argv[1:]
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "--bind", source, point], check=True)
found = [hostpath.of(directory, "/proc") for directory in directories]
told = [checks.state(checks.CheckedPaths(directory, "", "/proc")) for directory in directories]
print(json.dumps([[h.path, h.covered, c.result, c.found, c.mend] for h, c in zip(found, told)]))
"""


def look(source: Path, point: Path, *below: str) -> list[list[str]]:
    directories = [str(point / name) for name in below]
    command = in_namespace('exec "$@"', sys.executable, "-c", LOOK, source, point, *directories)
    done = subprocess.run(command, check=True, capture_output=True, timeout=60)
    found: list[list[str]] = json.loads(done.stdout)
    return found


def test_without_a_namespace_it_is_the_same(tmp_path: Path) -> None:
    assert hostpath.of(str(tmp_path), "/proc").path == str(tmp_path.resolve())
    assert hostpath.of(str(tmp_path / "missing"), "/proc") == hostpath.OnHost()


def test_through_a_bind_mount(tmp_path: Path) -> None:
    lib, point = tmp_path / "lib", tmp_path / "host"
    (lib / "diffkeeper").mkdir(parents=True)
    point.mkdir()
    found = look(lib, point, "", "diffkeeper")
    assert [each[:3] for each in found] == [
        [str(lib), "", "ok"],
        [str(lib / "diffkeeper"), "", "ok"],
    ]
    assert found[1][3] == f"{point}/diffkeeper is {lib}/diffkeeper on the host"


def test_a_disk_that_only_the_host_sees(tmp_path: Path) -> None:
    lib, point = tmp_path / "lib", tmp_path / "host"
    lib.mkdir()
    point.mkdir()
    with disks.file_system("ext4", lib) as disk:
        found = look(lib, point, "", disk.name)
    assert [each[:3] for each in found] == [[str(lib), "", "ok"], ["", str(disk), "warn"]]
    assert f"another disk on {disk}" in found[1][3]
    assert "state.source" in found[1][4]
