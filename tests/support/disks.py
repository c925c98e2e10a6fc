"""Small file systems on images, for tests that need a certain kind."""

from __future__ import annotations

import contextlib
import errno
import subprocess
from typing import TYPE_CHECKING

import pytest

from diffkeeper import limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

IMAGE_BYTES = 1024 * limits.MIB  # sparse
KINDS = ("ext4", "xfs")


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
    done = subprocess.run(
        ["mount", "-o", options, str(image), str(mount)],
        capture_output=True,
        text=True,
        check=False,
    )
    if make.returncode or done.returncode:
        pytest.skip(f"no {kind} here: {make.stderr}{done.stderr}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)
        image.unlink()


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
