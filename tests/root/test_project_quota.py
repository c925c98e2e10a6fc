"""Project quotas: what the kernel holds a directory to, and how its project is chosen."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import diffkeeper
from diffkeeper.errors import UnsupportedError
from diffkeeper.fsio import linux, project_quota
from diffkeeper.fsio.project_quota import PROJECT_FIRST
from diffkeeper.limits import KIB, MIB
from tests.support import disks, sizes

if TYPE_CHECKING:
    from collections.abc import Iterator

# What an engine gives to any plugin, and of what ours asks for that which this takes.
CAPABILITIES = (
    "audit_write chown dac_override fowner fsetid kill mknod net_bind_service net_raw setfcap"
    " setgid setpcap setuid sys_chroot sys_admin"
)
LIMIT = """
import sys
from diffkeeper.fsio import project_quota
directory = sys.argv[1]
assert project_quota.lack(directory) == ""
project_quota.allot(directory, 0, 2**20)
project_quota.limit(directory, 2**20)
print(project_quota.quota(directory).limit)
project_quota.lift(directory, 0)
"""


@pytest.fixture(params=disks.KINDS)
def limited(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system with project quotas that are enforced."""
    with disks.file_system(request.param, tmp_path, quotas=True) as disk:
        yield disk


def project(disk: Path, name: str, size: int = 0) -> tuple[str, int]:
    """A new directory with a project of its own: its path, and the number."""
    made = disk / name
    made.mkdir()
    number = project_quota.allot(str(made), 0, size)
    if size:
        project_quota.limit(str(made), size)
    return str(made), number


@pytest.mark.parametrize("kind", disks.KINDS)
def test_why_a_file_system_has_none(kind: str, tmp_path: Path) -> None:
    with disks.file_system(kind, tmp_path) as disk:
        assert "project quotas" in project_quota.lack(str(disk))
        project_quota.lift(str(disk), 0)
        assert not project_quota.is_ours(str(disk))
    project_quota.lift(str(tmp_path / "is not there"), 0)


def test_what_the_kernel_says_is_told() -> None:
    """A file system of the kernel's own has no projects, whatever the kernel was built with."""
    assert os.strerror(errno.ENOTTY) in project_quota.lack("/proc") or os.strerror(
        errno.EOPNOTSUPP
    ) in project_quota.lack("/proc")
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        linux.quotactl(2**20, 0x5805, 0, bytes(128))
    assert ctypes.sizeof(ctypes.c_uint32) == 4


def test_a_directory_takes_no_more_than_its_limit(limited: Path) -> None:
    assert project_quota.lack(str(limited)) == ""
    made, _ = project(limited, "a", 4 * MIB)
    assert sizes.written(f"{made}/file", 16 * MIB) <= 4 * MIB
    found = project_quota.quota(made)
    assert 3 * MIB < found.used <= found.limit
    assert 4 * MIB <= found.limit < 4 * MIB + project_quota._ROUNDED_MAX
    assert found.inodes == 2
    os.mkdir(f"{limited}/beside")
    assert sizes.written(f"{limited}/beside/file", 16 * MIB) == 16 * MIB
    os.unlink(f"{made}/file")
    assert sizes.written(f"{made}/other", 2 * MIB) == 2 * MIB


def test_the_managed_plugin_may_do_it(limited: Path) -> None:
    (limited / "a").mkdir()
    allowed = ",".join(f"+{each}" for each in CAPABILITIES.split())
    done = subprocess.run(
        ["setpriv", "--inh-caps=-all", f"--bounding-set=-all,{allowed}"]
        + [sys.executable, "-c", LIMIT, str(limited / "a")],
        env={**os.environ, "PYTHONPATH": str(Path(diffkeeper.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"{MIB}\n"), done.stderr


def test_a_number_is_taken_once_and_free_again(limited: Path) -> None:
    first, number = project(limited, "a", MIB)
    _, other = project(limited, "b", MIB)
    assert number == PROJECT_FIRST
    assert other == number + 1
    project_quota.lift(first, 0)
    os.rmdir(first)
    sizes.wait_free(limited, number)
    assert project(limited, "c")[1] == number


def test_a_number_that_is_limited_though_nothing_has_it(limited: Path) -> None:
    """It is somebody's, or was left by a directory that somebody deleted, and had this limit."""
    made, number = project(limited, "a", MIB)
    os.rmdir(made)
    assert project(limited, "b", 2 * MIB)[1] == number + 1
    with project_quota._opened(str(limited)) as fd:
        found = sizes.wait_empty(fd, number)
        assert found.holds(MIB)
    (limited / "c").mkdir()
    assert project_quota.allot(str(limited / "c"), 0, MIB) == number
    assert not sizes.limit_of(limited, number)
    project_quota.limit(str(limited / "c"), MIB)
    os.rmdir(limited / "c")
    project_quota.lift(str(limited / "c"), 5)
    assert sizes.limit_of(limited, number)
    with project_quota._opened(str(limited)) as fd:
        sizes.wait_empty(fd, number)
    project_quota.lift(str(limited / "c"), 0)
    assert not sizes.limit_of(limited, number)


def test_none_is_left(limited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffkeeper.fsio.project_quota.PROJECT_TRIES_MAX", 2)
    project(limited, "a")
    project(limited, "b")
    with pytest.raises(UnsupportedError, match="2 project numbers from 1600000000 are in use"):
        project(limited, "c")
    assert not project_quota.is_ours(str(limited / "c"))


def test_a_project_of_somebody_else(limited: Path) -> None:
    made, number = project(limited, "a", MIB)
    with project_quota._opened(made) as fd:
        project_quota._assign(fd, 77)
    assert "in project 77 already" in project_quota.lack(made)
    assert not project_quota.is_ours(made)
    project_quota.lift(made, 0)
    with project_quota._opened(made) as fd:
        assert project_quota._quota(fd, number).limit, "the limit of a project it has no more"


def test_a_tree_that_is_there_is_counted(limited: Path) -> None:
    tree = limited / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    for path in ("top", "a/file", "a/b/file"):
        (tree / path).write_bytes(os.urandom(64 * KIB))
    os.symlink("/nowhere", tree / "link")
    os.mkfifo(tree / "a" / "pipe")
    _, number = project(limited, "aside")
    project_quota.adopt(str(tree), number)
    found = project_quota.quota(str(tree))
    assert found.inodes == 7, "with the empty directory, without link and pipe"
    assert found.used >= 3 * 64 * KIB
    project_quota.limit(str(tree), MIB)
    assert sizes.written(f"{tree}/a/b/more", 4 * MIB) < MIB
