"""What others do with the same data: cp, restic, borg. Each is used where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HINT = "apt-get install restic borgbackup"


@dataclass(frozen=True)
class Peer:
    """One backup program with a repository of its own below `base`."""

    name: str
    base: Path

    @property
    def repository(self) -> Path:
        """Where it keeps its data."""
        return self.base / f"{self.name}-repository"

    def _run(self, *arguments: str, cwd: Path | None = None) -> None:
        environment = os.environ | {
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_PASSWORD": "bench",
            "RESTIC_CACHE_DIR": str(self.base / "restic-cache"),
            "BORG_REPO": str(self.repository),
            "BORG_BASE_DIR": str(self.base / "borg-base"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }
        command = [self.name, *arguments]
        done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True)
        # borg warns with 1 when a file changes while it reads, which nothing here does.
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")

    def prepare(self) -> None:
        """Make the repository, without encryption where there is a choice."""
        if self.name == "restic":
            self._run("init", "-q")
        else:
            self._run("init", "-e", "none")

    def save(self, source: Path, label: str) -> None:
        """One more backup of a directory."""
        if self.name == "restic":
            self._run("backup", "-q", ".", cwd=source)
        else:
            self._run("create", "-C", "zstd,1", f"::{label}", ".", cwd=source)

    def restore(self, target: Path, label: str) -> None:
        """The newest backup into an empty directory; not durable before a sync."""
        if self.name == "restic":
            self._run("restore", "-q", "latest", "--target", str(target))
        else:
            self._run("extract", f"::{label}", cwd=target)

    def stored_bytes(self) -> int:
        """Size of the repository."""
        return sum(path.stat().st_size for path in self.repository.rglob("*") if path.is_file())


def installed(base: Path) -> list[Peer]:
    """The backup programs of this machine."""
    return [Peer(name, base) for name in ("restic", "borg") if shutil.which(name)]


def copy(source: Path, target: Path) -> None:
    """`cp -a` and the sync that makes it durable."""
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)
    sync(target)


def sync(path: Path) -> None:
    """Make the file system of `path` durable."""
    subprocess.run(["sync", "-f", str(path)], check=True)


def restored(peer: Peer, target: Path, label: str) -> Callable[[], None]:
    """A restore by a peer into a new directory, with its sync."""

    def run() -> None:
        target.mkdir()
        peer.restore(target, label)
        sync(target)

    return run
