"""Damage in the store of a real daemon: found, healed from what is there, named where lost."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from diffkeeper.errors import CorruptionError
from diffkeeper.format import merkle
from diffkeeper.integrity.verify import entry_at
from diffkeeper.store.store import Store
from tests.support import rot

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon

OPTIONS = {"interval": "1h", "retention": "all"}


def parsed(daemon: Daemon, *arguments: str, code: int = 0) -> Any:
    ended = daemon.cli(*arguments, "--json")
    assert ended.returncode == code, (ended.stderr, ended.stdout)
    return json.loads(ended.stdout)


def live(daemon: Daemon, volume: str = "v") -> Path:
    return Path(daemon.ok("Path", Name=volume)["Mountpoint"])


def filled(daemon: Daemon) -> None:
    """Snapshots in which `f` changes; the newest one has `g` and `d/`, with a hard link, as well.

    Objects of one snapshot share frames: what damages one damages its neighbours.
    """
    daemon.ok("Create", Name="v", Opts=OPTIONS)
    daemon.live("v", {})
    for _ in range(2):
        (live(daemon) / "f").write_bytes(os.urandom(300_000))
        parsed(daemon, "snapshot", "v")
    (live(daemon) / "g").write_bytes(os.urandom(200_000))
    os.setxattr(live(daemon) / "g", "user.mine", b"x")
    (live(daemon) / "d").mkdir()
    for number in range(100):
        (live(daemon) / "d" / f"{number}").write_bytes(os.urandom(50))
    os.link(live(daemon) / "d" / "1", live(daemon) / "d" / "linked")
    parsed(daemon, "snapshot", "v")


def spoil(
    daemon: Daemon,
    seq: int,
    path: bytes,
    kind: str,
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """Damage the chunks or the nodes of a path of a snapshot, while the daemon is away."""
    daemon.stop()
    store_path = daemon.state_dir / "store"
    store = Store.open(str(store_path), reserve_bytes=0)
    root = store.snapshot(1, seq).root
    entry = entry_at(store, root, path)[0]
    assert entry is not None
    refs = list(merkle.of_entry(entry))
    refs += [
        below
        for ref in refs
        if ref.is_node
        for below in merkle.references(ref, store.node(ref.digest))
    ]
    store.close()
    rot.spoil(store_path, {ref.digest for ref in refs if ref.is_node == (kind == "node")})
    meanwhile()
    daemon.start()


def scrubbed(daemon: Daemon) -> Any:
    """The report of the scrub that begins by itself."""
    deadline = time.monotonic() + 60
    while (last := parsed(daemon, "stats")["scrub"]["last"]) is None:
        assert time.monotonic() < deadline, daemon.log
        time.sleep(0.1)
    return last


def newest(daemon: Daemon) -> int:
    return int(parsed(daemon, "snapshots", "v")[-1]["seq"])


def test_nothing_to_find(daemon: Daemon) -> None:
    filled(daemon)
    report = parsed(daemon, "scrub")
    assert (report["damaged_objects"], report["lost"]) == (0, [])
    assert report["objects"] > 100
    assert report["bytes"] > 800_000
    assert parsed(daemon, "stats")["scrub"]["last"] == report
    assert "objects" in daemon.cli("scrub").stdout
    assert daemon.admin("POST", "/v1/scrub", {"x": 1}, 400)
    metrics = daemon.cli("stats").stdout
    assert "scrub.objects" in metrics


@pytest.mark.parametrize(
    ("path", "kind"), [(b"g", "chunk"), (b"d/7", "chunk"), (b"g", "node"), (b"d", "node")]
)
def test_what_the_live_directory_has_is_healed(daemon: Daemon, path: bytes, kind: str) -> None:
    filled(daemon)
    seq = newest(daemon)
    spoil(daemon, seq, path, kind)
    assert parsed(daemon, "verify", f"v@{seq}", code=12)["ok"] is False
    report = parsed(daemon, "scrub")
    assert report["healed_objects"] == report["damaged_objects"] > 0, report
    assert (report["lost"], report["lost_objects"]) == ([], 0)
    assert parsed(daemon, "verify", f"v@{seq}")["ok"] is True
    daemon.stop()
    daemon.start()
    assert parsed(daemon, "scrub")["damaged_objects"] == 0
    assert parsed(daemon, "verify", "v")["ok"] is True


def test_what_is_lost_is_named(daemon: Daemon) -> None:
    filled(daemon)
    last = newest(daemon)
    spoil(daemon, last - 2, b"f", "chunk")
    report = parsed(daemon, "scrub", code=CorruptionError.exit_code)
    assert {(each["volume"], each["path"]) for each in report["lost"]} == {("v", "/f")}
    lost = {each["seq"] for each in report["lost"]}
    assert last - 2 in lost
    assert not lost & {last, last - 1}
    shown = {each["seq"]: each["damaged"] for each in parsed(daemon, "snapshots", "v")}
    assert shown == {seq: ["/f"] if seq in lost else [] for seq in shown}
    status = daemon.ok("Get", Name="v")["Volume"]["Status"]
    assert status["damaged_snapshots"] == sorted(lost)
    assert "damaged beyond healing" in daemon.cli("doctor").stdout
    ended = daemon.cli("restore", f"v@{last - 2}", "--to", str(daemon.base / "r"))
    assert ended.returncode == CorruptionError.exit_code
    assert "'f'" in ended.stderr
    assert parsed(daemon, "restore", f"v@{last}", "--to", str(daemon.base / "r2"))
    assert "lost" in daemon.cli("scrub").stdout


def test_captures_go_on_past_a_damaged_head(daemon: Daemon) -> None:
    filled(daemon)
    seq = newest(daemon)
    where = live(daemon)
    spoil(daemon, seq, b"d", "node", meanwhile=lambda: (where / "d" / "3").write_bytes(b"new"))
    answer = daemon.cli("snapshot", "v")
    assert answer.returncode == CorruptionError.exit_code, answer.stderr
    report = scrubbed(daemon)  # nobody has to ask for it
    assert {each["seq"] for each in report["lost"]} == {seq}
    assert parsed(daemon, "snapshot", "v")["seq"] == seq + 1
    assert parsed(daemon, "verify", "v")["ok"] is True
    parsed(daemon, "restore", "v", "--to", str(daemon.base / "r"))
    assert (daemon.base / "r" / "d" / "3").read_bytes() == b"new"
    parsed(daemon, "forget", f"v@{seq}")
    assert parsed(daemon, "scrub")["damaged_objects"] == 0


def test_an_unreadable_pack(daemon: Daemon) -> None:
    filled(daemon)
    daemon.stop()
    store = Store.open(str(daemon.state_dir / "store"), reserve_bytes=0)
    numbers = store.repack.packs()
    store.close()
    rot.spoil_header(daemon.state_dir / "store", numbers[-1])
    daemon.start()
    report = parsed(daemon, "scrub")
    assert report["healed_objects"] == report["damaged_objects"] > 0, report
    assert parsed(daemon, "verify", "v")["ok"] is True
    assert parsed(daemon, "scrub")["damaged_objects"] == 0


@pytest.mark.parametrize("damage", ["meta", "missing", "cut"])
def test_a_damaged_store_is_refused_and_the_daemon_stays(
    new_daemon: Callable[..., Daemon], damage: str
) -> None:
    daemon = new_daemon()
    daemon.start()
    filled(daemon)
    content = (live(daemon) / "g").read_bytes()
    where = live(daemon)
    daemon.stop()
    data = daemon.state_dir / "store" / "data.mdb"
    raw = bytearray(data.read_bytes())
    raw[:8192] = bytes(8192)
    if damage == "cut":
        os.truncate(data, 40_000)
    else:
        data.write_bytes(raw)
    if damage == "missing":
        data.unlink()
    process = daemon.spawn()
    deadline = time.monotonic() + 30
    while "store_refused" not in daemon.log and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, daemon.log
    answer = daemon.call("Create", Name="v", Opts=OPTIONS)
    assert answer.status == 500
    assert "data.mdb" in answer.err
    with pytest.raises(OSError):  # no answer at all: an error would have the engine forget it
        daemon.call("Get", Name="v")
    ended = daemon.cli("volumes")
    assert ended.returncode == CorruptionError.exit_code
    assert "live directories are untouched" in daemon.cli("doctor").stdout
    assert (where / "g").read_bytes() == content
    process.terminate()
    assert process.wait(30) == 0
    # A new store does not take the old directories for its own.
    os.rename(daemon.state_dir / "store", daemon.state_dir / "store.damaged")
    daemon.start()
    daemon.ok("Create", Name="w", Opts=OPTIONS)
    assert daemon.ok("Get", Name="w")["Volume"]["Status"]["id"] == 2
    assert (where / "g").read_bytes() == content
