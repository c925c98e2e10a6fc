"""The few kernel headers that are shipped are all that the programs in bpf/ are compiled with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.headers import gathered

REPOSITORY = Path(__file__).parents[2]
BYTES_MAX = 4 << 20


def run(script: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def headers() -> Path:
    return gathered()


def test_they_are_few(headers: Path) -> None:
    files = [path for path in headers.rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) < BYTES_MAX


def test_what_a_program_includes_comes_along(headers: Path, tmp_path: Path) -> None:
    """Taken from the pruned set itself, which is all that bcc alone needs."""
    source = tmp_path / "program.c"
    source.write_text("#include <linux/more.h>\n")
    tree = tmp_path / "tree"
    subprocess.run(["cp", "-a", headers, tree], check=True)
    (tree / "include" / "linux" / "more.h").write_text("typedef int more;\n")
    (tree / "include" / "linux" / "unused.h").write_text("typedef int unused;\n")
    out = tmp_path / "out"
    done = run(REPOSITORY / "rootfs-build" / "headers.py", tree, out, source)
    assert done.returncode == 0, done.stderr
    assert (out / "include" / "linux" / "more.h").is_file()
    assert not (out / "include" / "linux" / "unused.h").exists()
    kept = {path.relative_to(out) for path in out.rglob("*.h")}
    assert kept - {Path("include/linux/more.h")} == {
        path.relative_to(headers) for path in headers.rglob("*.h")
    }


def test_a_missing_header_is_told(headers: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    subprocess.run(["cp", "-a", headers, tree], check=True)
    (tree / "include" / "linux" / "types.h").unlink()
    done = run(REPOSITORY / "rootfs-build" / "headers.py", tree, tmp_path / "out")
    assert done.returncode != 0
    assert "bcc can't compile" in done.stderr
    assert not (tmp_path / "out").exists()
