"""Programs in a mount namespace of their own, which is what containers are to a volume."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


def in_namespace(
    script: str,
    *arguments: str | Path,
    propagation: str = "private",
    cgroups: Sequence[str | Path] = (),
) -> list[str]:
    """A command that runs a shell script in a new mount namespace; its first failure ends it.

    arguments: what the script has as "$1" and so on. propagation: of the mounts that are there from
    the start, as unshare(1) names it. cgroups: directories of those that it enters first.
    """
    joins = [f"echo $$ > {directory}/cgroup.procs" for directory in cgroups]
    command = ["unshare", "--mount", "--propagation", propagation, "sh", "-euc"]
    return [*command, "\n".join([*joins, script]), "sh", *map(str, arguments)]


@contextlib.contextmanager
def holding(source: str | Path, options: str = "rw") -> Iterator[int]:
    """Somebody who has the directory mounted with these options, and does nothing; their pid.

    They are killed at the end.
    """
    lines = [f"mount --bind {source} /mnt", f"mount -o remount,bind,{options} /mnt"]
    command = in_namespace("\n".join([*lines, "echo", "exec sleep 1000"]))
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.read(1) == b"\n"
            yield process.pid
        finally:
            process.kill()
