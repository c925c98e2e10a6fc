"""Files that nobody can delete keep no volume from going."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.daemon import Daemon


@pytest.fixture
def immutable() -> Iterator[Callable[[Path], None]]:
    """Sets the flag; skips where there is none."""
    flagged: list[Path] = []

    def flag(path: Path) -> None:
        done = subprocess.run(["chattr", "+i", str(path)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"no file is made immutable here: {done.stderr.decode()}")
        flagged.append(path)

    yield flag
    for path in flagged:
        for found in path.parent.parent.rglob(path.name):
            subprocess.run(["chattr", "-i", str(found)], check=True)


def filled(daemon: Daemon) -> Path:
    """The live directory of a volume with a snapshot."""
    daemon.ok("Create", Name="vol", Opts={"interval": "1h"})
    daemon.live("vol", {"keep": b"keep", "go": b"go"})
    daemon.admin("POST", "/v1/volumes/vol/snapshots", {}, 201)
    return Path(daemon.admin("GET", "/v1/volumes/vol")["status"]["live"])


def troubles(daemon: Daemon) -> str:
    found = {each["name"]: each for each in daemon.admin("GET", "/v1/doctor")}
    return str(found["health"]["found"])


def test_a_purge_ends_and_names_what_stays(
    daemon: Daemon, immutable: Callable[[Path], None]
) -> None:
    live = filled(daemon)
    immutable(live / "keep")
    daemon.ok("Unmount", Name="vol", ID="w")
    daemon.ok("Remove", Name="vol")
    assert daemon.cli("empty-trash", "--yes").returncode == 0
    assert daemon.admin("GET", "/v1/trash") == []
    assert "keep: Operation not permitted" in troubles(daemon)
    assert not list(live.parent.rglob("go"))
    daemon.ok("Create", Name="vol", Opts={"interval": "1h"})
    assert daemon.ok("Get", Name="vol")["Volume"]["Status"]["stored_bytes"] == 0


def test_a_removal_ends_where_an_earlier_one_left_something(
    daemon: Daemon, immutable: Callable[[Path], None]
) -> None:
    """It is in the trash and nowhere else, and comes back whole."""
    live = filled(daemon)
    (live.parent / "removed").mkdir()
    (live.parent / "removed" / "old").write_bytes(b"old")
    immutable(live.parent / "removed" / "old")
    daemon.ok("Unmount", Name="vol", ID="w")
    daemon.ok("Remove", Name="vol")
    assert daemon.ok("List")["Volumes"] == []
    assert "old: Operation not permitted" in troubles(daemon)
    daemon.stop(9)
    daemon.start()
    assert daemon.cli("undelete", "vol").returncode == 0
    mountpoint = Path(daemon.ok("Mount", Name="vol", ID="w")["Mountpoint"])
    assert (mountpoint / "keep").read_bytes() == b"keep"
    daemon.ok("Unmount", Name="vol", ID="w")
