"""The data sets, made from a seed: many small files, one large file, a PostgreSQL cluster."""

from __future__ import annotations

import glob
import os
import random
import shutil
import subprocess
from pathlib import Path

FILES_PER_DIRECTORY = 100
PAGE_BYTES = 8192


def place(base: Path, number: int) -> Path:
    """Where the file with that number is: a hundred to a directory."""
    return base / f"d{number // FILES_PER_DIRECTORY:05}" / f"f{number:06}"


def small_files(base: Path, count: int, bytes_max: int = 8192) -> int:
    """`count` files of 0 to `bytes_max` bytes, half of each compressible; returns their bytes."""
    source = random.Random(1)
    words = bytes(source.choices(b"etaoin shrdlu\n", k=bytes_max))
    total = 0
    for number in range(count):
        path = place(base, number)
        path.parent.mkdir(exist_ok=True)
        size = source.randrange(bytes_max + 1)
        half = size // 2
        start = source.randrange(bytes_max - half + 1) if half < bytes_max else 0
        content = source.randbytes(size - half) + words[start : start + half]
        path.write_bytes(content)
        total += size
    return total


def empty_files(base: Path, count: int) -> None:
    """`count` files of a few bytes each, in directories of a hundred."""
    for number in range(count):
        path = place(base, number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"%d\n" % number)


def large_file(path: Path, mebibytes: int) -> None:
    """A file of random bytes."""
    with open(path, "wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(1 << 20))


def change_page(path: Path, source: random.Random) -> None:
    """Overwrite one aligned 8 KiB page with random bytes."""
    pages = path.stat().st_size // PAGE_BYTES
    with open(path, "r+b", buffering=0) as file:
        file.seek(source.randrange(pages) * PAGE_BYTES)
        file.write(source.randbytes(PAGE_BYTES))


def postgres_binaries() -> Path | None:
    """The folder of the newest PostgreSQL that Debian has installed here."""
    found = glob.glob("/usr/lib/postgresql/*/bin/initdb")
    newest = max(found, key=lambda path: int(path.split("/")[4]), default=None)
    return Path(newest).parent if newest else None


def cluster(binaries: Path, base: Path) -> Path:
    """A fresh cluster with checksums, owned by `postgres`, stopped."""
    target = base / "cluster"
    target.mkdir()
    shutil.chown(target, "postgres", "postgres")
    command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    command += [str(binaries / "initdb"), "-k", "-A", "trust", "--no-sync", "-D", str(target)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")
    return target


def size_of(base: Path) -> tuple[int, int]:
    """Regular files below `base`, and their bytes."""
    files = [path.stat().st_size for path in base.rglob("*") if path.is_file()]
    return len(files), sum(files)
