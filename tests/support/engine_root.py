"""The programs of another Debian release: its Docker Engine and client, on this machine's files.

A mount namespace has that release's /usr and /etc; everything else is the host's, so that each path
means the same on both sides. It lasts as long as `Root` holds it, dockerd may come and go in it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

from tests.support.namespaces import in_namespace

BUILD: Final = Path(__file__).parents[2] / "build" / "engines"
OWN: Final = "bookworm"  # what the host has, and what a run is for unless told otherwise
RELEASES: Final = (OWN, "trixie", "sid")
BUILD_SECONDS_MAX: Final = 600
_PACKAGES = "docker.io,docker-cli,docker-compose,iptables,ca-certificates,procps"
# A program that the host has for itself there would be found before the release's.
_SCRIPT = """
mount --make-private / &&
mount --bind "$1/usr" /usr && mount --bind "$1/etc" /etc &&
mount --bind /usr/bin /usr/local/bin && mount --make-rshared / &&
echo ready && exec sleep infinity
"""


def chosen() -> tuple[str, ...]:
    """The releases whose engines all Docker tests run on, see `make test ENGINE=trixie`."""
    release = os.environ.get("DIFFKEEPER_TEST_ENGINE") or OWN
    if release == "all":
        return RELEASES
    if release not in RELEASES:
        raise ValueError(f"ENGINE is {release!r}, and none of {', '.join(RELEASES)}, all")
    return (release,)


def build(release: str) -> Path:
    """The release's root file system, made at the first call and kept.

    Its packages come from the mirror that this machine's apt uses, as it was when it was made.
    """
    return debian(BUILD / release, release, f"--include={_PACKAGES}")


def debian(target: Path, release: str, *options: str) -> Path:
    """A Debian system at `target`, a folder or a `.tar`, made at the first call and kept.

    Whoever asks for what is being made waits for it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{target}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            fresh = target.with_name(f"fresh-{target.name}")
            _make(release, fresh, options)
            fresh.rename(target)
    return target


def _make(release: str, fresh: Path, options: Sequence[str]) -> None:
    if fresh.is_dir():  # left by a run that was killed
        shutil.rmtree(fresh)
    fresh.unlink(missing_ok=True)
    command = ["mmdebstrap", "--quiet", '--aptopt=Acquire::Check-Valid-Until "false"', *options]
    done = subprocess.run(
        [*command, release, str(fresh)],
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr


class ReleaseRoot:
    """A mount namespace with the programs of one release; None as release: the host's own."""

    def __init__(self, release: str | None) -> None:
        self.shared: Path | None = None  # what is mounted below it is so on both sides
        self._holder: subprocess.Popen[str] | None = None
        self._enter: list[str] = []
        if release is None or release == OWN:
            return
        root = build(release)
        self.shared = Path(tempfile.mkdtemp(prefix="dk-shared-", dir="/var/lib"))
        for mount in (["--bind", str(self.shared)], ["--make-private"], ["--make-shared"]):
            subprocess.run(["mount", *mount, str(self.shared)], check=True)
        command = in_namespace(_SCRIPT, root, propagation="unchanged")
        self._holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        with self._holder.stdout as told:
            assert told.readline() == "ready\n", f"no namespace for {release}"
        enter = f"--mount=/proc/{self._holder.pid}/ns/mnt"
        self._enter = ["nsenter", enter, f"--wd={os.getcwd()}", "--"]

    def command(self, *arguments: str) -> list[str]:
        """What runs these programs and arguments of the release."""
        return [*self._enter, *arguments]

    @property
    def mountinfo(self) -> list[str]:
        """What is mounted where dockerd runs, a line each."""
        holder = "self" if self._holder is None else str(self._holder.pid)
        return Path(f"/proc/{holder}/mountinfo").read_text().splitlines()

    def close(self) -> None:
        """Ends the namespace; what still runs in it keeps it."""
        if self._holder is not None:
            self._holder.kill()
            self._holder.wait(20)
        if self.shared is not None:
            subprocess.run(["umount", "--lazy", str(self.shared)], check=True)
            shutil.rmtree(self.shared)
