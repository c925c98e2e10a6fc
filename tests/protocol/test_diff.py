"""Differences of two snapshots, by a real daemon, by command and by route."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from diffkeeper.history.differences import DIFFERENCES_PER_REQUEST
from tests.support.daemon import write_states

if TYPE_CHECKING:
    import subprocess

    from tests.support.daemon import Daemon

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

NOT_UTF8 = b"\xff\xfe name"


def listed(daemon: Daemon, *arguments: str) -> list[dict[str, Any]]:
    """What `diff --json` prints."""
    ended = daemon.cli("diff", "--json", *arguments)
    assert ended.returncode == 0, ended.stderr
    found: list[dict[str, Any]] = json.loads(ended.stdout)
    return found


def brief(found: list[dict[str, Any]]) -> dict[str, tuple[str, list[str]]]:
    return {each["path"]: (each["change"], each["parts"]) for each in found}


def sizes(each: dict[str, Any]) -> tuple[int | None, int | None]:
    before, after = each["before"], each["after"]
    return before and before["bytes"], after and after["bytes"]


def snapshot(daemon: Daemon, volume: str = "v") -> str:
    """VOLUME@NUMBER of a new snapshot."""
    ended = daemon.cli("snapshot", volume, "--json")
    assert ended.returncode == 0, ended.stderr
    return f"{volume}@{json.loads(ended.stdout)['seq']}"


def said(ended: subprocess.CompletedProcess[str], code: int) -> str:
    """What a command that must fail with this exit code says."""
    assert ended.returncode == code, (ended.stdout, ended.stderr)
    return ended.stderr


@pytest.fixture
def live(daemon: Daemon) -> Path:
    """Top directory of the mounted volume `v`, with a few kinds of files."""
    daemon.ok("Create", Name="v", Opts={"interval": "1h", "retention": "all"})
    top = Path(daemon.ok("Mount", Name="v", ID="w")["Mountpoint"])
    for name in ("content", "mode", "owner", "xattrs", "removed", "renamed", "touched", "same"):
        (top / name).write_bytes(name.encode())
    (top / "inner" / "most").mkdir(parents=True)
    (top / "inner" / "most" / "file").write_bytes(b"inner")
    (top / "link").symlink_to("same")
    (top / "shared").write_bytes(b"shared")
    os.link(top / "shared", top / "inner" / "other name")
    Path(os.fsdecode(os.fsencode(top) + b"/" + NOT_UTF8)).write_bytes(b"1")
    return top


def test_every_kind_of_change_is_told(daemon: Daemon, live: Path) -> None:
    old = snapshot(daemon)
    (live / "content").write_bytes(b"more content")
    (live / "mode").chmod(0o600)
    os.chown(live / "owner", 12, 34)
    os.setxattr(live / "xattrs", "user.a", b"b")
    (live / "removed").unlink()
    (live / "renamed").rename(live / "a new name")
    os.utime(live / "touched", (1, 1))
    (live / "link").unlink()
    (live / "link").symlink_to("content")
    (live / "shared").write_bytes(b"shared by both names")
    Path(os.fsdecode(os.fsencode(live) + b"/" + NOT_UTF8)).write_bytes(b"22")
    (live / "new directory").mkdir()
    (live / "new directory" / "empty").touch()
    live.chmod(0o1777)
    new = snapshot(daemon)
    found = listed(daemon, old, new)
    name = os.fsdecode(NOT_UTF8)
    assert brief(found) == {
        ".": ("changed", ["mode"]),
        "a new name": ("added", []),
        "content": ("changed", ["content"]),
        "inner/other name": ("changed", ["content"]),
        "link": ("changed", ["content"]),
        "mode": ("changed", ["mode"]),
        "new directory": ("added", []),
        "new directory/empty": ("added", []),
        "owner": ("changed", ["owner"]),
        "removed": ("removed", []),
        "renamed": ("removed", []),
        "shared": ("changed", ["content"]),
        "xattrs": ("changed", ["xattrs"]),
        name: ("changed", ["content"]),
    }
    at = {each["path"]: each for each in found}
    assert list(at) == [".", *sorted(path for path in at if path != ".")]
    assert sizes(at["content"]) == (7, 12)
    assert sizes(at["shared"]) == sizes(at["inner/other name"]) == (6, 20)
    assert sizes(at["removed"]) == (7, None)
    assert sizes(at["a new name"]) == (None, 7)
    assert (at["mode"]["before"]["mode"], at["mode"]["after"]["mode"]) == ("0644", "0600")
    assert (at["owner"]["after"]["uid"], at["owner"]["after"]["gid"]) == (12, 34)
    back = brief(listed(daemon, new, old))
    assert {path: change for path, (change, _) in back.items() if change != "changed"} == {
        "a new name": "removed",
        "new directory": "removed",
        "new directory/empty": "removed",
        "removed": "added",
        "renamed": "added",
    }
    assert listed(daemon, old) == found, "the newest one is meant"
    assert listed(daemon, new, new) == []


def test_a_directory_that_a_file_replaced(daemon: Daemon, live: Path) -> None:
    old = snapshot(daemon)
    shutil.rmtree(live / "inner")
    (live / "inner").write_bytes(b"no directory any more")
    new = snapshot(daemon)
    found = listed(daemon, old, new)
    assert brief(found) == {
        "inner": ("changed", ["type", "mode"]),
        "inner/most": ("removed", []),
        "inner/most/file": ("removed", []),
        "inner/other name": ("removed", []),
    }
    assert found[0]["before"]["type"] == "directory"
    assert found[0]["after"]["type"] == "file"
    assert sizes(found[0]) == (0, 21)


def test_what_a_person_reads(daemon: Daemon, live: Path) -> None:
    old = snapshot(daemon)
    (live / "mode").chmod(0o600)
    os.chown(live / "mode", 12, 34)
    (live / "content").write_bytes(bytes(3 << 20))
    (live / "removed").unlink()
    (live / "new\nline").write_bytes(b"x")
    new = snapshot(daemon)
    ended = daemon.cli("diff", old, new)
    assert ended.returncode == 0, ended.stderr
    lines = [line.split("  ") for line in ended.stdout.splitlines()]
    rows = [[cell.strip() for cell in line if cell] for line in lines]
    summary = f"{old} to {new}: 1 added (1B), 1 removed (7B), 2 changed (11B to 3.0MiB)"
    assert rows == [
        ["CHANGE", "PATH", "WHAT", "BYTES"],
        ["changed", "content", "content", "7B to 3MiB"],
        ["changed", "mode", "mode 0644 to 0600, owner 0:0 to 12:34", "4B"],
        ["added", "new\\nline", "file", "1B"],
        ["removed", "removed", "file", "7B"],
        [summary],
    ]
    assert daemon.cli("diff", "--stat", old).stdout == f"{summary}\n"
    counted = json.loads(daemon.cli("diff", "--stat", "--json", old, new).stdout)
    assert counted == {
        "old": old,
        "new": new,
        "added": {"paths": 1, "bytes_before": 0, "bytes": 1},
        "removed": {"paths": 1, "bytes_before": 7, "bytes": 0},
        "changed": {"paths": 2, "bytes_before": 11, "bytes": (3 << 20) + 4},
    }


def test_more_differences_than_one_answer_has(daemon: Daemon, live: Path) -> None:
    old = snapshot(daemon)
    many = live / "many"
    many.mkdir()
    count = DIFFERENCES_PER_REQUEST + 50
    for number in range(count):
        (many / f"{number}").touch()
    (live / "zuletzt").touch()
    new = snapshot(daemon)
    found = [each["path"] for each in listed(daemon, old, new)]
    below = sorted(f"many/{number}" for number in range(count))
    assert found == ["many", *below, "zuletzt"]
    stat = daemon.cli("diff", "--stat", old, new).stdout
    assert f" {count + 2} added" in stat
    table = daemon.cli("diff", old, new).stdout.splitlines()
    assert len(table) == count + 2 + 2 + 1, "a header for each page, and the summary"


def test_snapshots_of_two_volumes(daemon: Daemon, live: Path) -> None:
    old = snapshot(daemon)
    daemon.ok("Create", Name="clone", Opts={"interval": "1h", "from": old})
    top = Path(daemon.ok("Mount", Name="clone", ID="w")["Mountpoint"])
    (top / "shared").write_bytes(b"of the clone")
    (live / "content").write_bytes(b"of the volume")
    snapshot(daemon)
    snapshot(daemon, "clone")
    expected = {
        "content": ("changed", ["content"]),
        "inner/other name": ("changed", ["content"]),
        "shared": ("changed", ["content"]),
    }
    assert brief(listed(daemon, "v", "clone")) == expected
    assert brief(listed(daemon, old, "clone")).keys() == {"inner/other name", "shared"}


def test_references_are_those_of_every_command(daemon: Daemon) -> None:
    first, second, third = write_states(daemon, 3)
    assert daemon.cli("tag", f"v@{second}", "middle").returncode == 0
    root = daemon.admin("GET", "/v1/volumes/v/snapshots")[-1]["root"]
    for new in ("v@latest", f"v@{root[:12]}", f"v@{third}", "v"):
        stat = daemon.cli("diff", "--stat", "v@middle", new).stdout
        assert stat.startswith(f"v@{second} to v@{third}: 0 added"), new
    assert "1 changed" in daemon.cli("diff", "--stat", f"v@{first}", "v@middle").stdout


def test_refusals_say_what_is_wrong(daemon: Daemon) -> None:
    (first,) = write_states(daemon, 1)
    assert "give v@SNAPSHOT" in said(daemon.cli("diff", "v"), 2)
    assert "names no snapshot after @" in said(daemon.cli("diff", "v@"), 2)
    assert "names no snapshot: give a sequence number" in said(daemon.cli("diff", "v@HEAD~1"), 2)
    assert "no snapshot 99" in said(daemon.cli("diff", f"v@{first}", "v@99"), 3)
    assert "nobody" in said(daemon.cli("diff", f"v@{first}", "nobody@1"), 3)
    assert "volume name" in said(daemon.cli("diff", f"v@{first}", "no/name"), 2)
    for message, words in (
        ({"old": "HEAD~1"}, "names no snapshot"),
        ({"after": "/absolute"}, "is absolute"),
        ({"after": ""}, "empty name"),
        ({"new_volume": "a/b"}, "a/b"),
        ({"from": "1"}, "allowed: old, new, new_volume, after"),
        ({"old": 1}, "old: expected"),
    ):
        answer = daemon.admin("POST", "/v1/volumes/v/diff", message, 400)
        assert words in answer["Err"], answer


def test_a_snapshot_that_was_forgotten_between_two_pages(daemon: Daemon) -> None:
    first, second, _ = write_states(daemon, 3)
    assert daemon.cli("forget", f"v@{first}").returncode == 0
    message = {"old": str(first), "new": str(second), "after": "a"}
    answer = daemon.admin("POST", "/v1/volumes/v/diff", message, 404)
    assert answer["Err"].endswith("any more: it was forgotten")
