"""The command line against a real daemon."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from diffkeeper.cli import discover
from diffkeeper.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon


@pytest.fixture
def filled(daemon: Daemon) -> Daemon:
    """A daemon with one mounted volume of a few kinds of files, and a snapshot of it."""
    daemon.ok("Create", Name="v", Opts={"interval": "1h"})
    daemon.live("v", {"a": b"alpha" * 100_000, "empty": b""})
    root = Path(daemon.ok("Path", Name="v")["Mountpoint"])
    (root / "directory").mkdir(mode=0o750)
    (root / "directory" / "b").write_bytes(os.urandom(300_000))
    (root / "link").symlink_to("../../etc/passwd")
    os.link(root / "a", root / "directory" / "hard")
    os.mkfifo(root / "fifo")
    with open(root / "sparse", "wb") as sparse:
        sparse.truncate(10 << 20)
    assert daemon.cli("snapshot", "v").returncode == 0
    return daemon


def parsed(ended: subprocess.CompletedProcess[str], code: int = 0) -> Any:
    assert ended.returncode == code, ended.stderr
    return json.loads(ended.stdout)


def tree(root: str) -> dict[str, tuple[object, ...]]:
    """Everything below `root` that a replay has to bring back."""
    command = ["find", ".", "-printf", "%p %y %m %U %G %n %l %s %T@\\n"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    found: dict[str, tuple[object, ...]] = {}
    for line in listed.splitlines():
        name, kind, *fields = line.split(" ")
        path = Path(root, name)
        if kind == "d":
            fields[5] = "-"  # a directory's size is the file system's own affair
        found[name] = (kind, *fields, path.read_bytes() if kind == "f" else b"")
    return found


def test_restore_equals_the_volume(filled: Daemon) -> None:
    target = str(filled.base / "restored")
    result = parsed(filled.cli("restore", "v", "--to", target, "--json"))
    assert result["to"] == target
    assert tree(target) == tree(filled.ok("Path", Name="v")["Mountpoint"])
    sparse = os.stat(f"{target}/sparse")
    assert sparse.st_blocks * 512 < sparse.st_size, "holes stay holes"


def test_restore_of_an_earlier_snapshot(filled: Daemon) -> None:
    first = parsed(filled.cli("snapshots", "v", "--json"))[-1]
    filled.live("v", {"a": b"changed"})
    assert filled.cli("snapshot", "v").returncode == 0
    for reference in (str(first["seq"]), first["root"][:12]):
        target = f"{filled.base}/at-{reference}"
        ended = filled.cli("restore", f"v@{reference}", "--to", target)
        assert ended.returncode == 0, ended.stderr
        assert Path(target, "a").read_bytes() == b"alpha" * 100_000


def test_restore_refuses_what_would_be_harmed(filled: Daemon) -> None:
    occupied = filled.base / "occupied"
    occupied.mkdir()
    (occupied / "precious").write_text("x")
    assert filled.cli("restore", "v", "--to", str(occupied)).returncode == 4
    assert [p.name for p in occupied.iterdir()] == ["precious"]
    missing = filled.base / "none"
    assert filled.cli("restore", "v@99999", "--to", str(missing)).returncode == 3
    assert filled.cli("restore", "nobody", "--to", str(missing)).returncode == 3
    assert not missing.exists()


def test_one_file_is_restored_without_the_rest(filled: Daemon) -> None:
    target = filled.base / "some"
    result = parsed(filled.cli("restore", "v", "directory/", "--to", str(target), "--json"))
    assert sorted(path.name for path in target.rglob("*")) == ["b", "directory", "hard"]
    assert (result["files"], result["bytes"]) == (2, 800_000)
    absent = filled.base / "absent"
    for path, code in (("a/b", 3), ("nothing", 3), ("/a", 2), ("../a", 2)):
        assert filled.cli("restore", "v", "a", path, "--to", str(absent)).returncode == code
    assert filled.cli("restore", "v", "a", "--group", "--to", str(absent)).returncode == 2
    assert not absent.exists()


@pytest.mark.skipif(shutil.which("bindfs") is None, reason="no bindfs")
def test_what_a_target_refuses_has_an_exit_code_of_its_own(filled: Daemon) -> None:
    source = Path(filled.ok("Path", Name="v")["Mountpoint"])
    os.chown(source / "a", 4321, 4321)
    os.setxattr(source / "a", "user.note", b"x")
    assert filled.cli("snapshot", "v").returncode == 0
    real, share = filled.base / "real", filled.base / "share"
    for path in (real, share):
        path.mkdir()
    options = ("--chown-deny", "--chgrp-deny", "--xattr-none")
    subprocess.run(["bindfs", *options, str(real), str(share)], check=True)
    try:
        ended = filled.cli("restore", "v", "--to", str(share / "whole"))
        assert ended.returncode == 14
        assert "user.note" in ended.stdout
        assert "owner: 8" in ended.stderr
        result = parsed(filled.cli("restore", "v", "--to", str(share / "json"), "--json"), 14)
        assert result["refused"]["counts"] == {"owner": 8, "attribute": 1}
        flags = ("--no-owner", "--no-xattrs")
        wanted = parsed(filled.cli("restore", "v", "--to", str(share / "some"), *flags, "--json"))
        assert wanted["refused"] == {"counts": {}, "first": []}
    finally:
        subprocess.run(["umount", str(share)], check=True)
    for name in ("whole", "json", "some"):
        assert (real / name / "a").read_bytes() == b"alpha" * 100_000


def test_every_command_speaks_json(filled: Daemon) -> None:
    assert parsed(filled.cli("volumes", "--json"))[0]["name"] == "v"
    assert parsed(filled.cli("inspect", "v", "--json"))["mounts"] == 1
    snapshots = parsed(filled.cli("snapshots", "v", "--json"))
    assert parsed(filled.cli("snapshot", "v", "--json")) == snapshots[-1]
    assert parsed(filled.cli("verify", "v", "--json"))["ok"] is True
    assert parsed(filled.cli("stats", "--json"))["volumes"] == 1
    version = parsed(filled.cli("version", "--json"))
    assert version["daemon"]["version"] == version["version"]
    findings = {finding["name"]: finding for finding in parsed(filled.cli("doctor", "--json"))}
    assert findings["daemon"]["result"] == "ok"


def test_every_command_speaks_to_a_person(filled: Daemon) -> None:
    arguments = [["volumes"], ["inspect", "v"], ["snapshots", "v"], ["snapshot", "v"]]
    arguments += [["verify", "v"], ["stats"], ["version"], ["doctor"]]
    for command in arguments:
        ended = filled.cli(*command)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.strip()
        assert "\x1b" not in ended.stdout
        assert not ended.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["inspect", "nobody"], 3),
        (["snapshots", "nobody"], 3),
        (["snapshot", "nobody"], 3),
        (["verify", "nobody"], 3),
        (["inspect", "../x"], 2),
        (["verify", "v@HEAD~1"], 2),
    ],
)
def test_exit_codes_come_back_over_the_socket(
    shared: Daemon, arguments: list[str], code: int
) -> None:
    ended = shared.cli(*arguments)
    assert ended.returncode == code
    assert ended.stderr.startswith("diffkeeper: ")


def test_the_running_plugin_is_found(new_daemon: Callable[..., Daemon]) -> None:
    first, second = new_daemon(), new_daemon()
    first.start()
    plugins = first.base / "plugins"
    (plugins / "0123abc").mkdir(parents=True)
    os.symlink(first.path, plugins / "0123abc" / "diffkeeper.sock")
    assert discover.find((str(plugins),)) == first.path
    second.start()
    (plugins / "diffkeeper.sock").symlink_to(second.path)
    with pytest.raises(ConflictError, match="--socket") as caught:
        discover.find((str(plugins),))
    assert first.path in str(caught.value)
    assert second.path in str(caught.value)
    first.stop(9)
    assert discover.find((str(plugins),)) == second.path
