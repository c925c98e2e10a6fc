"""Clones, exports and imports between real daemons."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from diffkeeper import limits
from diffkeeper.errors import ConflictError, CorruptionError, InvalidInputError, NotFoundError
from diffkeeper.format.archive import ArchiveEncoder, Decoder, FrameKind
from diffkeeper.format.records import SnapshotRecord
from diffkeeper.store.tables import FORMAT_VERSION
from tests.support import trees
from tests.support.daemon import package_environment
from tests.support.killed import IMPORT_DONE, IMPORT_UNDONE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon

CHUNK = limits.CHUNK_BYTES_DEFAULT


def populate(root: Path) -> None:
    """Every kind of thing that a volume can hold, with names that nobody likes."""
    (root / "directory" / "below").mkdir(parents=True, mode=0o750)
    (root / "text").write_bytes(b"alpha\n" * 50_000)
    (root / "random").write_bytes(os.urandom(5 * CHUNK + 17))
    (root / "empty").write_bytes(b"")
    (root / "zeros").write_bytes(bytes(2 * CHUNK + 5))
    (root / "zeros-and-more").write_bytes(b"x" * CHUNK + bytes(CHUNK + 100))
    (root / "one-zero-chunk").write_bytes(bytes(100))
    for name, extents, size in (
        ("holes", ((0, b"begin"), (40 * CHUNK, b"middle" * 20_000)), 300 * CHUNK + 3),
        ("hole-first", ((7 * CHUNK, b"end"),), 7 * CHUNK + 3),
        ("only-hole", (), 10 << 20),
    ):
        with open(root / name, "wb") as file:
            file.truncate(size)
            for at, data in extents:
                os.pwrite(file.fileno(), data, at)
    os.link(root / "text", root / "directory" / "hard")
    os.mkfifo(root / "fifo", 0o622)
    os.mknod(root / "device", 0o600 | 0o020000, os.makedev(1, 3))
    os.link(root / "fifo", root / "directory" / "fifo-too")
    (root / "link").symlink_to("../../etc/passwd")
    os.symlink(b"\xff\xfe", os.fsencode(root / "odd-target"))
    odd = [b"\xff\xfebytes", "ünïcode".encode(), b"new\nline", b"-dash", b"n" * 255]
    for raw in odd:
        Path(os.fsdecode(os.fsencode(root) + b"/" + raw)).write_bytes(raw)
    long = root.joinpath(*["d" * 200] * 3)
    long.mkdir(parents=True)
    (long / "deep").write_bytes(b"deep")
    os.setxattr(root / "text", "user.note", b"\x00\xff binary =\n")
    os.setxattr(root / "directory", "user.empty", b"")
    os.chown(root / "random", 70_000, 3_000_000_000)
    os.chmod(root / "random", 0o4711)
    os.utime(root / "empty", ns=(1, -1_500_000_000))
    os.utime(root / "random", ns=(1, 1_700_000_000_123_456_789))


def parsed(ended: subprocess.CompletedProcess[str], code: int = 0) -> Any:
    assert ended.returncode == code, ended.stderr
    return json.loads(ended.stdout)


def newest(daemon: Daemon, volume: str) -> dict[str, Any]:
    found: dict[str, Any] = parsed(daemon.cli("snapshots", volume, "--json"))[-1]
    return found


def piped(daemon: Daemon, *arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "diffkeeper", "--socket", daemon.path, *arguments],
        env=package_environment(),
        input=data,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def filled(daemon: Daemon) -> Daemon:
    """A daemon with a mounted volume of everything, and three snapshots of it."""
    daemon.ok("Create", Name="v", Opts={"interval": "1h", "chunk-size": "64KiB"})
    daemon.live("v", {})
    populate(live(daemon))
    for number in range(3):
        (live(daemon) / "counter").write_bytes(b"%d" % number)
        assert daemon.cli("snapshot", "v").returncode == 0
    return daemon


def live(daemon: Daemon, volume: str = "v") -> Path:
    return Path(daemon.ok("Path", Name=volume)["Mountpoint"])


@pytest.fixture
def archive(filled: Daemon) -> Path:
    """The volume with its history as one file."""
    path = filled.base / "v.dkv"
    assert filled.cli("tag", "v@2", "good").returncode == 0
    result = parsed(filled.cli("export", "v", "--history", "--to", str(path), "--json"))
    assert result["snapshots"] == newest(filled, "v")["seq"]
    assert result["bytes"] == path.stat().st_size
    return path


# Clones


def test_a_clone_is_that_state_and_shares_every_chunk(filled: Daemon) -> None:
    chosen = parsed(filled.cli("snapshots", "v", "--json"))[-2]
    before = filled.admin("GET", "/v1/stats")["unique_bytes"]
    filled.ok("Create", Name="c", Opts={"from": f"v@{chosen['seq']}"})
    assert filled.admin("GET", "/v1/stats")["unique_bytes"] == before
    (first,) = parsed(filled.cli("snapshots", "c", "--json"))
    assert (first["root"], first["reason"]) == (chosen["root"], "clone")
    assert (first["seq"], first["new_bytes"], first["group"]) == (1, 0, "")
    filled.live("c", {})
    assert (live(filled, "c") / "counter").read_bytes() == b"1"
    (live(filled, "c") / "counter").write_bytes(b"2")
    shown = trees.difference(
        trees.describe(live(filled), holes=False), trees.describe(live(filled, "c"), holes=False)
    )
    assert [line for line in shown if "counter" not in line] == []


def test_a_clone_outlives_its_source_and_goes_on(filled: Daemon) -> None:
    wanted = trees.describe(live(filled))
    assert filled.cli("tag", "v", "good").returncode == 0
    filled.ok("Create", Name="c", Opts={"from": "v@good"})
    filled.ok("Unmount", Name="v", ID="w")
    filled.ok("Remove", Name="v")
    assert filled.stop() == 0
    filled.start()
    filled.live("c", {})
    assert trees.difference(wanted, trees.describe(live(filled, "c"))) == []
    os.link(live(filled, "c") / "random", live(filled, "c") / "second name")
    assert filled.cli("snapshot", "c").returncode == 0
    assert filled.cli("verify", "c").returncode == 0
    assert newest(filled, "c")["parent"] == 1


def test_a_clone_has_the_chunk_size_and_a_repeated_create_is_the_same(filled: Daemon) -> None:
    options = {"from": "v", "interval": "1h"}
    filled.ok("Create", Name="c", Opts=options)
    filled.ok("Create", Name="c", Opts=options)
    shown = filled.admin("GET", "/v1/volumes/c")["options"]
    assert shown == {**options, "chunk-size": "64KiB"}
    assert filled.call("Create", Name="c", Opts={"interval": "1h"}).status == 500
    filled.ok("Create", Name="d", Opts={"from": "v", "chunk-size": "16KiB"})
    assert filled.admin("GET", "/v1/volumes/d")["options"]["chunk-size"] == "16KiB"


def test_a_clone_of_what_is_not_there(filled: Daemon) -> None:
    cases: list[tuple[dict[str, str], tuple[str, ...]]] = [
        ({"from": "nothing"}, ("'nothing'", "there are: v")),
        ({"from": "v@99"}, ("99", "it has 1 to")),
        ({"from": "v@"}, ("after @",)),
        ({"from": "../v"}, ("volume name",)),
        ({"from": "v@zzz"}, ("zzz",)),
        ({"from": "v", "uid": "5"}, ("uid", "leave")),
    ]
    for options, named in cases:
        answer = filled.call("Create", Name="c", Opts=options)
        assert answer.status == 500
        for word in named:
            assert word in answer.err
    assert [v["name"] for v in filled.admin("GET", "/v1/volumes")] == ["v"]


def fuzzy(archive: bytes) -> bytes:
    """The same archive with no snapshot that is one instant."""
    encoder, decoder = ArchiveEncoder(), Decoder(FORMAT_VERSION)
    parts = [encoder.preface(FORMAT_VERSION)]
    for frame in decoder.feed(archive):
        payload = frame.payload
        if frame.kind is FrameKind.SNAPSHOT:
            record = SnapshotRecord.decode(payload)
            payload = replace(record, consistency="fuzzy", cause="told so").encode()
        if frame.kind is not FrameKind.END:
            parts.append(encoder.frame(frame.kind, payload))
    return b"".join([*parts, encoder.end()])


def test_only_a_name_makes_a_clone_of_a_fuzzy_snapshot(filled: Daemon, archive: Path) -> None:
    data = fuzzy(archive.read_bytes())
    assert filled.request("POST", "/v1/volumes/f/import", data).status == 201
    answer = filled.call("Mount", Name="f", ID="x")
    assert answer.status == 500
    assert "no snapshot of it is crash-" in answer.err
    assert "crash-consistent" in filled.call("Create", Name="c", Opts={"from": "f"}).err
    filled.ok("Create", Name="c", Opts={"from": "f@2"})
    filled.live("c", {})
    assert list(live(filled, "c").iterdir())


# Archives


def test_history_goes_to_another_daemon_and_back(
    filled: Daemon, archive: Path, new_daemon: Callable[..., Daemon]
) -> None:
    other = new_daemon()
    other.start()
    result = parsed(other.cli("import", str(archive), "--as", "moved", "--json"))
    snapshots = parsed(filled.cli("snapshots", "v", "--json"))
    assert result["snapshots"] == len(snapshots)
    assert parsed(other.cli("snapshots", "moved", "--json")) == snapshots
    other.live("moved", {})
    wanted, found = trees.describe(live(filled)), trees.describe(live(other, "moved"))
    assert trees.difference(wanted, found) == []
    for each in snapshots:
        assert other.cli("verify", f"moved@{each['seq']}").returncode == 0
    again = piped(other, "export", "moved", "--history", "--to", "-")
    assert (again.returncode, again.stderr[:8]) == (0, b"exported")
    back = piped(filled, "import", "-", "--as", "back", data=again.stdout)
    assert back.returncode == 0, back.stderr
    assert parsed(filled.cli("snapshots", "back", "--json")) == snapshots
    assert other.stop() == 0
    other.start()
    assert parsed(other.cli("snapshots", "moved", "--json")) == snapshots


def test_a_damaged_or_cut_archive_leaves_nothing_to_see(
    archive: Path, new_daemon: Callable[..., Daemon]
) -> None:
    whole = archive.read_bytes()
    other = new_daemon()
    other.start()
    size = len(whole)
    places = [0, 3, 11, 12, 60, 1000, size // 3, size // 2, size - 100, size - 40, size - 1]
    damaged = [whole + b"more"]
    for place in places:
        damaged.append(whole[:place])
        damaged.append(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    for bad in damaged:
        answer = other.request("POST", "/v1/volumes/bad/import", bad)
        assert answer.json["error"] in ("CorruptionError", "FormatVersionError"), answer.body
    ended = piped(other, "import", "-", "--as", "bad", data=whole[:-1])
    assert ended.returncode == CorruptionError.exit_code
    assert b"cut short" in ended.stderr
    assert other.admin("GET", "/v1/volumes") == []
    assert other.cli("import", str(archive), "--as", "good").returncode == 0


def test_a_name_that_is_taken_is_told_before_all_is_sent(filled: Daemon, archive: Path) -> None:
    ended = filled.cli("import", str(archive), "--as", "v")
    assert ended.returncode == ConflictError.exit_code
    assert "volume v exists" in ended.stderr
    other = piped(filled, "import", "-", "--as", "x", data=b"something else" * 10_000_000)
    assert other.returncode == CorruptionError.exit_code, other.stderr


def test_a_sender_that_goes_away_is_forgotten(filled: Daemon, archive: Path) -> None:
    connection = filled.connect()
    head = b"POST /v1/volumes/x/import HTTP/1.1\r\nHost: d\r\nContent-Length: 9999999\r\n\r\n"
    connection.sendall(head + archive.read_bytes()[:500_000])
    connection.shutdown(socket.SHUT_RDWR)
    connection.close()
    ended = filled.cli("import", str(archive), "--as", "x")
    for _ in range(20):
        if ended.returncode == 0:
            break
        ended = filled.cli("import", str(archive), "--as", "x")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("point", IMPORT_UNDONE)
def test_killed_while_importing(
    archive: Path, new_daemon: Callable[..., Daemon], point: str
) -> None:
    other = new_daemon()
    other.start("--failpoints", f"{point}=kill")
    assert other.cli("import", str(archive), "--as", "x").returncode != 0
    other.start()
    assert other.admin("GET", "/v1/volumes") == []
    other.ok("Create", Name="another", Opts={"interval": "1h"})
    other.live("another", {})
    parsed(other.cli("snapshot", "another", "--json"))
    assert newest(other, "another")["seq"] <= 2, "it got what the import had left"
    assert other.cli("import", str(archive), "--as", "x").returncode == 0


@pytest.mark.parametrize("point", IMPORT_DONE)
def test_killed_after_the_import(
    archive: Path, new_daemon: Callable[..., Daemon], point: str
) -> None:
    other = new_daemon()
    other.start("--failpoints", f"{point}=kill")
    assert other.cli("import", str(archive), "--as", "x").returncode != 0
    other.start()
    assert [v["name"] for v in other.admin("GET", "/v1/volumes")] == ["x"]
    other.live("x", {})
    assert other.cli("verify", "x").returncode == 0


# Tar


def test_a_tar_is_what_gnu_tar_reads(filled: Daemon) -> None:
    path = filled.base / "v.tar"
    result = parsed(filled.cli("export", "v", "--to", str(path), "--json"))
    assert result["snapshot"]["seq"] == newest(filled, "v")["seq"]
    out = filled.base / "out"
    out.mkdir()
    command = ["tar", "-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*"]
    command += ["-f", str(path), "-C", str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    wanted, found = trees.describe(live(filled)), trees.describe(out)
    assert trees.difference(wanted, found) == []
    for name in ("holes", "hole-first", "only-hole"):
        status = os.stat(out / name)
        assert status.st_blocks * 512 < status.st_size, "holes stay holes"
    assert path.stat().st_size < 4 << 20
    with tarfile.open(path, encoding="utf-8", errors="surrogateescape") as read:
        assert len(read.getmembers()) == result["entries"]


def test_sockets_are_left_out_of_a_tar_and_told(daemon: Daemon) -> None:
    daemon.ok("Create", Name="s", Opts={"interval": "1h"})
    daemon.live("s", {"file": b"1"})
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(live(daemon, "s") / "sock"))
        assert daemon.cli("snapshot", "s").returncode == 0
    ended = piped(daemon, "export", "s", "--to", "-")
    assert ended.returncode == 0
    assert b"1 sockets left out" in ended.stderr
    listed = subprocess.run(["tar", "-t"], input=ended.stdout, capture_output=True, check=True)
    assert listed.stdout == b"./\n./file\n"


def test_what_is_refused(filled: Daemon) -> None:
    target = str(filled.base / "x")
    invalid, absent = InvalidInputError.exit_code, NotFoundError.exit_code
    cases: list[tuple[tuple[str, ...], int, str]] = [
        (("export", "v@2", "--history", "--to", target), invalid, "@2"),
        (("export", "v@99", "--to", target), absent, "99"),
        (("export", "w", "--to", target), absent, "'w'"),
        (("export", "w", "--history", "--to", target), absent, "'w'"),
        (("export", "v", "--to", "/nowhere/x"), invalid, "/nowhere/x"),
        (("import", "/nowhere/x", "--as", "y"), invalid, "/nowhere/x"),
        (("import", "/dev/null", "--as", "y"), CorruptionError.exit_code, "cut short"),
        (("import", "/dev/null", "--as", "a/b"), invalid, "'a/b'"),
        (("export", "v"), 2, "--to"),
    ]
    for arguments, code, named in cases:
        ended = filled.cli(*arguments)
        assert ended.returncode == code, ended.stderr
        assert named in ended.stderr
    assert list(filled.base.glob("x*")) == []


def test_a_file_that_exists_is_kept(filled: Daemon) -> None:
    path = filled.base / "kept"
    path.write_bytes(b"kept")
    for more in ((), ("--history",)):
        ended = filled.cli("export", "v", "--to", str(path), *more)
        assert ended.returncode == ConflictError.exit_code
    assert path.read_bytes() == b"kept"


def test_records_in_pages(filled: Daemon) -> None:
    page = filled.admin("GET", "/v1/volumes/v/records?after=1")
    assert [json.loads(text)["seq"] for text in page["snapshots"]][0] == 2
    assert json.loads(page["volume"])["name"] == "v"
    for bad in ("-1", "x", "9" * 19):
        filled.admin("GET", f"/v1/volumes/v/records?after={bad}", status=400)


# Accounting


def test_what_volumes_take(filled: Daemon) -> None:
    filled.ok("Create", Name="c", Opts={"from": "v", "interval": "1h"})
    filled.live("c", {"own": os.urandom(100_000)})
    assert filled.cli("snapshot", "c").returncode == 0
    found = parsed(filled.cli("stats", "--json"))
    figures = found["accounting"]["volumes"]
    assert figures["c"]["unique_bytes"] == 100_000
    assert figures["v"]["shared_bytes"] == figures["c"]["shared_bytes"]
    assert found["accounting"]["sampled_one_in"] == 1
    total = found["accounting"]["total"]
    assert total["unique_bytes"] + total["shared_bytes"] == found["unique_bytes"]
    one = parsed(filled.cli("stats", "c", "--json"))
    assert (one["volume"], one["unique_bytes"]) == ("c", 100_000)
    status = filled.ok("Get", Name="c")["Volume"]["Status"]["accounting"]
    assert status["unique_bytes"] == 100_000
    assert 0 <= status["age_seconds"] < 60
    shown = filled.cli("stats")
    assert shown.returncode == 0
    assert "UNIQUE" in shown.stdout
    assert filled.cli("stats", "nothing").returncode == NotFoundError.exit_code
