"""Writing as a container does, which may not pass over limits of its disk; what that takes."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

from diffkeeper.fsio import project_quota

if TYPE_CHECKING:
    from pathlib import Path

SECONDS_MAX = 30.0

_WRITER = """
import errno, os, sys
done, size = 0, int(sys.argv[2])
try:
    with open(sys.argv[1], "wb", buffering=0) as file:
        while done < size:
            done += file.write(os.urandom(min(size - done, 65536)))
            os.fsync(file.fileno())
except OSError as error:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise
print(done)
"""


def written(path: str, size: int) -> int:
    """Write a new file of so many bytes, as far as it goes: how many were written.

    Without CAP_SYS_RESOURCE, to which ext4 allows more, and which containers do not have.
    """
    least = ["setpriv", "--inh-caps=-sys_resource", "--bounding-set=-sys_resource"]
    done = subprocess.run(
        [*least, sys.executable, "-c", _WRITER, path, str(size)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    return int(done.stdout)


def number_of(directory: str) -> int:
    """The number of a directory's own project."""
    with project_quota._opened(directory) as fd:
        return project_quota._own(fd)


def wait_free(disk: Path, number: int) -> None:
    """Until a project has no limit, and nothing. XFS counts what was removed a while longer."""
    with project_quota._opened(str(disk)) as fd:
        assert wait_empty(fd, number) == project_quota.Quota()


def wait_empty(fd: int, number: int) -> project_quota.Quota:
    """Until a project has nothing on the file system of `fd`: its quota then."""
    deadline = time.monotonic() + SECONDS_MAX
    while (found := project_quota._quota(fd, number)).inodes:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


def limit_of(disk: Path, number: int) -> int:
    """The limit of a project."""
    with project_quota._opened(str(disk)) as fd:
        return project_quota._quota(fd, number).limit
