"""Bit rot in live directories of a real daemon: found, offered for repair, repaired by command.

The daemon's state is on a file system of its own, whose image is damaged below it.
"""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from diffkeeper.errors import ConflictError, InvalidInputError, NotFoundError
from tests.support import bitrot, disks
from tests.support.bitrot import MIB, Files, filled, image, live, parsed
from tests.support.daemon import Daemon, package_environment, unmount_below
from tests.support.namespaces import holding

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
IMAGE_BYTES = 256 << 20


@pytest.fixture(params=disks.KINDS)
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    """A running daemon whose state is on a disk of its own."""
    size = IMAGE_BYTES if request.param == "ext4" else 2 * IMAGE_BYTES
    with disks.file_system(request.param, tmp_path, size) as mount:
        # A read that moves the access time is a hint: what was written just now is looked at anew.
        subprocess.run(["mount", "-o", "remount,noatime", mount], check=True)
        made = Daemon(mount)
        made.start()
        try:
            yield made
        finally:
            for process in made.spawned:
                process.kill()
                process.wait(60)
            unmount_below(mount)


def said(daemon: Daemon, *arguments: str, code: int) -> str:
    ended = daemon.cli(*arguments)
    assert ended.returncode == code, (ended.stderr, ended.stdout)
    return ended.stderr


def seqs(daemon: Daemon) -> list[int]:
    return [each["seq"] for each in parsed(daemon, "snapshots", "v")]


def assert_whole(daemon: Daemon, files: Files) -> None:
    for name, content in files.items():
        assert (live(daemon) / name).read_bytes() == content, name
    report = parsed(daemon, "verify", "v")
    assert (report["ok"], report["repair"]) == (True, "")


def test_rot_is_offered_and_repaired_by_command(daemon: Daemon) -> None:
    files = filled(daemon)
    before = {name: (live(daemon) / name).stat() for name in files}
    rotten = bitrot.rot(image(daemon), live(daemon) / "a", 40_000)
    bitrot.rot(image(daemon), live(daemon) / "a", 2 * MIB)
    bitrot.rot(image(daemon), live(daemon) / "d/c", 20_000)
    bitrot.rot(image(daemon), live(daemon) / "sparse", MIB // 2 + 100)
    damaged = (live(daemon) / "a").read_bytes()
    assert damaged != rotten
    report = parsed(daemon, "verify", "v", code=12)
    assert report["repair"] == "diffkeeper repair v"
    assert {f["path"] for f in report["faults"] if f["damaged"]} == {"a", "d/c", "sparse"}
    assert report["repair"] in daemon.cli("verify", "v").stdout
    status = daemon.ok("Get", Name="v")["Volume"]["Status"]
    assert status["last_verification"]["repair"] == "diffkeeper repair v"
    assert 'repair="diffkeeper repair v"' in daemon.log
    # A dry run changes nothing.
    history = seqs(daemon)
    plan = parsed(daemon, "repair", "v", "--dry-run")
    assert plan["dry_run"] is True
    assert plan["kept"] is None
    found = {each["path"]: each for each in plan["files"]}
    assert set(found) == {"a", "d/c", "sparse"}
    assert found["a"]["ranges"] == [[32768, 49152], [2 * MIB, 2 * MIB + 16384]]
    assert found["a"]["outcome"] == "damaged"
    assert "32768-49151" in daemon.cli("repair", "v", "--dry-run").stdout
    assert (live(daemon) / "a").read_bytes() == damaged
    assert seqs(daemon) == history
    # Asked for, and nobody there to ask.
    assert "--yes" in said(daemon, "repair", "v", code=InvalidInputError.exit_code)
    assert (live(daemon) / "a").read_bytes() == damaged
    done = parsed(daemon, "repair", "v", "--yes")
    assert {each["outcome"] for each in done["files"]} == {"repaired"}
    assert_whole(daemon, files)
    for name, status in before.items():
        after = (live(daemon) / name).stat()
        same = ("st_ino", "st_mode", "st_mtime_ns", "st_size", "st_uid")
        assert [getattr(after, f) for f in same] == [getattr(status, f) for f in same]
    assert os.getxattr(live(daemon) / "d/c", "user.mine") == b"x"
    assert os.getxattr(live(daemon) / "d/c", "security.capability") == bitrot.CAPABILITY
    assert (live(daemon) / "sparse").stat().st_blocks < MIB // 512
    assert daemon.ok("Get", Name="v")["Volume"]["Status"]["trouble"] == []
    assert "repaired" in daemon.log
    # What was on disk is kept, and what came back is the newest snapshot.
    kept = done["kept"]
    assert seqs(daemon) == [*history, kept["seq"], kept["seq"] + 1]
    listed = {each["seq"]: each for each in parsed(daemon, "snapshots", "v")}
    assert listed[kept["seq"]]["tags"] == [kept["tag"]] == [f"before-repair-{kept['seq']}"]
    assert listed[kept["seq"]]["consistency"] == "fuzzy"
    assert listed[kept["seq"] + 1]["root"] == listed[history[-1]]["root"]
    target = daemon.base / "undone"
    parsed(daemon, "restore", f"v@{kept['tag']}", "--to", str(target))
    assert (target / "a").read_bytes() == damaged
    assert (target / "d/b").read_bytes() == files["d/b"]
    # Nothing that was repaired is taken for written, and nothing that is written is missed.
    daemon.stop()
    daemon.start()
    assert parsed(daemon, "snapshot", "v")["seq"] == kept["seq"] + 1
    (live(daemon) / "a").write_bytes(b"new")
    os.utime(live(daemon) / "a", ns=(1, before["a"].st_mtime_ns))
    assert parsed(daemon, "snapshot", "v")["seq"] == kept["seq"] + 2
    assert_whole(daemon, {**files, "a": b"new"})
    # It can rot again.
    bitrot.rot(image(daemon), live(daemon) / "d/c", 20_000)
    assert parsed(daemon, "verify", "v", code=12)["repair"]
    assert "repaired d/c" in daemon.cli("repair", "v", "--yes").stdout
    assert_whole(daemon, {**files, "a": b"new"})


def test_named_files(daemon: Daemon) -> None:
    files = filled(daemon)
    for path in ("d/b", "a", "d/c"):
        bitrot.rot(image(daemon), live(daemon) / path, 12_288)
    done = parsed(daemon, "repair", "v", "linked", "d/b", "--yes")
    assert [(f["path"], f["other_names"]) for f in done["files"]] == [("linked", ["d/b"])]
    assert (live(daemon) / "d/b").read_bytes() == files["d/b"]
    assert (live(daemon) / "linked").stat().st_nlink == 2
    faults = parsed(daemon, "verify", "v", code=12)["faults"]
    assert {fault["path"] for fault in faults} == {"a", "d/c"}
    assert parsed(daemon, "repair", "v", "d/b", "--yes")["whole"] == ["d/b"]
    assert "d/b is whole" in daemon.cli("repair", "v", "d/b").stdout
    # All that was found by the verification, once: a file with two names.
    bitrot.rot(image(daemon), live(daemon) / "linked", 12_288)
    done = parsed(daemon, "repair", "v", "--yes")
    assert {f["path"]: f["outcome"] for f in done["files"]}.keys() >= {"a", "d/c"}
    assert len(done["files"]) == 3
    assert_whole(daemon, files)
    assert daemon.ok("Get", Name="v")["Volume"]["Status"]["trouble"] == []


def test_what_is_refused_changes_nothing(daemon: Daemon) -> None:
    filled(daemon)
    rotten = bitrot.rot(image(daemon), live(daemon) / "a", 40_000)
    outside = daemon.base / "outside"
    outside.write_bytes(b"mine")
    os.symlink(outside, live(daemon) / "out")
    history = parsed(daemon, "snapshot", "v")["seq"]
    for path, code, why in (
        ("/a", InvalidInputError.exit_code, "absolute"),
        ("../a", InvalidInputError.exit_code, "'..'"),
        ("d//c", InvalidInputError.exit_code, "empty name"),
        ("./a", InvalidInputError.exit_code, "'.'"),
        ("", InvalidInputError.exit_code, "empty name"),
        ("n" * 300, InvalidInputError.exit_code, "255"),
        ("nowhere", NotFoundError.exit_code, "not in the snapshot"),
        ("a/b", NotFoundError.exit_code, "not in the snapshot"),
        ("dir/c", NotFoundError.exit_code, "not in the snapshot"),
        ("d", ConflictError.exit_code, "is a directory"),
        ("fifo", ConflictError.exit_code, "is a fifo"),
        ("link", ConflictError.exit_code, "is a symlink"),
        ("out", ConflictError.exit_code, "is a symlink"),
    ):
        for more in (("--yes",), ("--dry-run",)):
            assert why in said(daemon, "repair", "v", "a", path, *more, code=code), path
    assert said(daemon, "repair", "w", "--yes", code=NotFoundError.exit_code)
    path = "/v1/volumes/v/repair"
    for message, why in (
        ({"paths": []}, "at least one"),
        ({"paths": "a"}, "list"),
        ({"paths": [1]}, "string"),
        ({"paths": ["a"] * 101}, "100"),
        ({"paths": ["\udc00\ud800"]}, "no path"),
        ({"paths": ["a\0"]}, "null byte"),
        ({"dry_run": 1}, "boolean"),
        ({"x": 1}, "paths, dry_run"),
    ):
        assert why in daemon.admin("POST", path, message, 400)["Err"], message
    assert outside.read_bytes() == b"mine"
    assert (live(daemon) / "a").read_bytes() == rotten
    assert seqs(daemon)[-1] == history


def test_a_written_file_is_no_damage(daemon: Daemon) -> None:
    """A write that hides its traces is one all the same: it moves the change time."""
    files = filled(daemon)
    before = (live(daemon) / "a").stat()
    with open(live(daemon) / "a", "r+b") as file:
        file.seek(5000)
        file.write(b"written")
    os.utime(live(daemon) / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    written = (live(daemon) / "a").read_bytes()
    ended = daemon.cli("repair", "v", "--yes")
    assert ended.returncode == 0, ended.stderr
    assert "is whole" in ended.stdout
    assert (live(daemon) / "a").read_bytes() == written != files["a"]
    assert_whole(daemon, {**files, "a": written})


def test_not_while_it_is_mounted(daemon: Daemon) -> None:
    filled(daemon)
    daemon.ok("Mount", Name="v", ID="m")
    rotten = bitrot.rot(image(daemon), live(daemon) / "a", 40_000)
    assert parsed(daemon, "verify", "v", code=12)["repair"] == "diffkeeper repair v"
    for more in (("--yes",), ("--dry-run",), ("a", "--yes")):
        message = said(daemon, "repair", "v", *more, code=ConflictError.exit_code)
        assert "is mounted" in message
    assert daemon.admin("POST", "/v1/volumes/v/repair", {}, 409)
    assert (live(daemon) / "a").read_bytes() == rotten
    (live(daemon) / "d/c").write_bytes(b"goes on")
    assert parsed(daemon, "snapshot", "v")["new_bytes"] > 0
    daemon.ok("Unmount", Name="v", ID="m")
    # Others on this machine may have copied the mount with all of theirs: they do not count.
    # The last unmount looked at what changed alone; the offer of the command above stands.
    assert parsed(daemon, "repair", "v", "--yes")["files"][0]["outcome"] == "repaired"
    assert parsed(daemon, "verify", "v")["ok"] is True
    shutil.rmtree(live(daemon))
    message = said(daemon, "repair", "v", code=ConflictError.exit_code)
    assert "no live directory" in message


def test_not_while_somebody_reads_it(daemon: Daemon) -> None:
    """A container that has it mounted read-only holds old bytes in memory, too."""
    filled(daemon)
    rotten = bitrot.rot(image(daemon), live(daemon) / "a", 40_000)
    with holding(live(daemon), "ro") as reader:
        message = said(daemon, "repair", "v", "--yes", code=ConflictError.exit_code)
        assert f"is mounted by the processes {reader};" in message
        assert (live(daemon) / "a").read_bytes() == rotten
    assert parsed(daemon, "repair", "v", "--yes")["files"][0]["outcome"] == "repaired"


def test_what_else_differs_stays(daemon: Daemon) -> None:
    """A file that cannot be written, beside one that can: done as far as it goes, and told."""
    files = filled(daemon)
    for path in ("a", "d/c"):
        bitrot.rot(image(daemon), live(daemon) / path, 12_288)
    subprocess.run(["chattr", "+i", live(daemon) / "a"], check=True)
    try:
        # That moved its change time: it is captured as it is.
        done = parsed(daemon, "repair", "v", "--yes")
        assert [each["path"] for each in done["files"]] == ["d/c"]
    finally:
        subprocess.run(["chattr", "-i", live(daemon) / "a"], check=True)
    assert (live(daemon) / "d/c").read_bytes() == files["d/c"]


def test_a_terminal_is_asked(daemon: Daemon) -> None:
    files = filled(daemon)
    rotten = bitrot.rot(image(daemon), live(daemon) / "a", 40_000)
    assert "nothing was done" in answered(daemon, "n", InvalidInputError.exit_code)
    assert (live(daemon) / "a").read_bytes() == rotten
    assert "Overwrite 16KiB in 1 files of v?" in answered(daemon, "y", 0)
    assert_whole(daemon, files)


def answered(daemon: Daemon, answer: str, code: int) -> str:
    """Standard error of a repair on a terminal whose user says this."""
    control, terminal = pty.openpty()
    command = [sys.executable, "-m", "diffkeeper", "--socket", daemon.path, "repair", "v"]
    os.write(control, f"{answer}\n".encode())
    ended = subprocess.run(
        command,
        env=package_environment(),
        stdin=terminal,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(control)
    os.close(terminal)
    assert ended.returncode == code, ended.stderr
    return ended.stderr
