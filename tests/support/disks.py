"""Small file systems on images, for tests that need a certain kind."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper import limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IMAGE_BYTES = 1024 * limits.MIB  # sparse
KINDS = ("ext4", "xfs")
LOOP_LOCK = Path(tempfile.gettempdir(), "diffkeeper-tests-loop.lock")
LOOP_ATTEMPTS_MAX = 2
LOOP_RETRY_SECONDS = 0.2


@contextlib.contextmanager
def file_system(
    kind: str,
    base: Path,
    size: int = IMAGE_BYTES,
    change: Callable[[Path], None] = lambda image: None,
    *,
    quotas: bool = False,
) -> Iterator[Path]:
    """A new file system of this kind, mounted below `base`; skips the test where there is none.

    change: makes something else of its image before that. quotas: it has project quotas.
    """
    features = ["-O", "quota,project"] if quotas and kind == "ext4" else []
    options = "loop,prjquota" if quotas else "loop"
    image, mount = base / "image", base / "disk"
    mount.mkdir()
    with open(image, "wb") as file:
        file.truncate(size)
    make = subprocess.run(
        [f"mkfs.{kind}", "-q", *features, str(image)], capture_output=True, text=True, check=False
    )
    if not make.returncode:
        change(image)
    done = mount_image(image, mount, options)
    if make.returncode or done.returncode:
        pytest.skip(f"no {kind} here: {make.stderr}{done.stderr}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)
        image.unlink()


def mount_image(image: Path, at: Path, options: str = "loop") -> subprocess.CompletedProcess[str]:
    """Mount an image, whatever comes of it.

    One process at a time, and once more if it fails: a loop device that mount(8) finds free may be
    another mount's by the time it is used, or still be let go of.
    """
    command = ["mount", "-o", options, str(image), str(at)]
    done = subprocess.CompletedProcess[str](command, 0)
    with open(LOOP_LOCK, "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for _ in range(LOOP_ATTEMPTS_MAX):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if not done.returncode:
                break
            time.sleep(LOOP_RETRY_SECONDS)
    return done


def fill(path: Path) -> None:
    """Take all the room of a file system with one file."""
    with open(path, "wb", buffering=0) as file:
        for piece in (limits.MIB, 4096):
            written = piece
            while written == piece:
                try:
                    written = file.write(bytes(piece))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    break
