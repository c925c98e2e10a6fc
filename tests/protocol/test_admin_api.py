"""The admin API, the metrics page and the doctor of a real daemon."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper import hashing, limits
from diffkeeper.api import server
from diffkeeper.cli.remote import frames
from diffkeeper.format import chunk
from tests.support.daemon import tcp

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

SNAPSHOT_FIELDS: dict[str, type | tuple[type, ...]] = {
    "seq": int,
    "time": str,
    "root": str,
    "parent": (int, type(None)),
    "consistency": str,
    "reason": str,
    "files": int,
    "bytes": int,
    "new_bytes": int,
    "stored_bytes": int,
    "freeze_ms": (int, float),
    "capture_ms": (int, float),
}


def error(daemon: Daemon, method: str, path: str, message: object, status: int, name: str) -> str:
    """The message of an admin error that must have this status and class."""
    answer = daemon.admin(method, path, message, status)
    assert answer["error"] == name
    assert isinstance(answer["code"], int)
    return str(answer["Err"])


def test_snapshots(daemon: Daemon) -> None:
    daemon.ok("Create", Name="v", Opts={"interval": "1h"})
    daemon.live("v", {"a": b"alpha" * 1000})
    first = daemon.admin("POST", "/v1/volumes/v/snapshots", {}, 201)
    for name, kind in SNAPSHOT_FIELDS.items():
        assert isinstance(first[name], kind), name
    assert first["consistency"] == "crash"
    assert (first["files"], first["bytes"]) == (1, 5000)
    assert re.fullmatch(r"[0-9a-f]{64}", first["root"])
    assert daemon.admin("POST", "/v1/volumes/v/snapshots", {}, 201) == first, "nothing has changed"
    daemon.live("v", {"b": b"beta"})
    second = daemon.admin("POST", "/v1/volumes/v/snapshots", None, 201)
    assert second["parent"] == first["seq"] < second["seq"]
    listed = daemon.admin("GET", "/v1/volumes/v/snapshots")
    assert listed[-2:] == [first, second]
    path = "/v1/volumes/v/resolve"
    assert daemon.admin("GET", path) == second
    assert daemon.admin("GET", f"{path}?snapshot={first['seq']}") == first
    assert daemon.admin("GET", f"{path}?snapshot={first['root'][:16]}") == first
    error(daemon, "GET", f"{path}?snapshot=999999", None, 404, "NotFoundError")
    error(daemon, "GET", f"{path}?snapshot=../x", None, 400, "InvalidInputError")


def test_a_snapshot_that_was_answered_survives_kill_9(daemon: Daemon) -> None:
    daemon.ok("Create", Name="v", Opts={"interval": "1h"})
    daemon.live("v", {"a": b"content"})
    taken = daemon.admin("POST", "/v1/volumes/v/snapshots", {}, 201)
    daemon.stop(9)
    daemon.start()
    assert daemon.admin("GET", f"/v1/volumes/v/resolve?snapshot={taken['seq']}") == taken


def test_verify_finds_a_change_behind_its_back(daemon: Daemon) -> None:
    daemon.ok("Create", Name="v", Opts={"interval": "1h"})
    daemon.live("v", {"a": b"content"})
    daemon.admin("POST", "/v1/volumes/v/snapshots", {}, 201)
    report = daemon.admin("POST", "/v1/volumes/v/verify", {"snapshot": None})
    assert (report["ok"], report["complete"], report["faults"]) == (True, True, [])
    assert report["volume"] == "v"
    error(daemon, "POST", "/v1/volumes/v/verify", {"snap": 1}, 400, "InvalidInputError")


def test_objects_are_what_their_hashes_say(daemon: Daemon) -> None:
    daemon.ok("Create", Name="v", Opts={"interval": "1h"})
    content = b"some content" * 10_000
    daemon.live("v", {"a": content})
    root = daemon.admin("POST", "/v1/volumes/v/snapshots", {}, 201)["root"]
    size = limits.CHUNK_BYTES_DEFAULT
    pieces = [content[i : i + size] for i in range(0, len(content), size)]
    wanted = [["chunk", hashing.chunk_digest(piece).hex()] for piece in pieces]
    body = json.dumps({"objects": [["node", root], *wanted]}).encode()
    answer = daemon.request("POST", "/v1/objects", body)
    assert answer.status == 200
    node, *chunks = frames(answer.body)
    assert hashing.node_digest(chunk.decode(node, limits.NODE_BYTES_MAX)).hex() == root
    assert [chunk.decode(stored, limits.CHUNK_BYTES_MAX) for stored in chunks] == pieces
    for absent in (["chunk", "00" * 31 + "01"], ["chunk", root]):
        error(daemon, "POST", "/v1/objects", {"objects": [absent]}, 404, "NotFoundError")


def test_volumes_statistics_and_doctor(daemon: Daemon) -> None:
    daemon.ok("Create", Name="v", Opts={"interval": "1h", "mode": "0750"})
    daemon.live("v", {"a": b"x" * 100_000})
    daemon.admin("POST", "/v1/volumes/v/snapshots", {}, 201)
    (volume,) = daemon.admin("GET", "/v1/volumes")
    alone = daemon.admin("GET", "/v1/volumes/v")
    assert set(volume["status"]) == set(alone["status"])
    assert {**volume, "status": {}} == {**alone, "status": {}}
    assert (volume["name"], volume["mounts"]) == ("v", 1)
    assert volume["options"] == {"interval": "1h", "mode": "0750"}
    statistics = daemon.admin("GET", "/v1/stats")
    names = {"store_used_bytes", "store_file_bytes", "logical_bytes", "unique_bytes", "volumes"}
    assert names <= set(statistics)
    assert statistics["logical_bytes"] == 100_000
    findings = {finding["name"]: finding for finding in daemon.admin("GET", "/v1/doctor")}
    assert findings["health"]["result"] == "ok"
    assert findings["privileges"]["result"] == "ok"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/volumes/nobody", 404),
        ("GET", "/v1/volumes/nobody/snapshots", 404),
        ("POST", "/v1/volumes/nobody/snapshots", 404),
        ("POST", "/v1/volumes/nobody/verify", 404),
        ("GET", "/v1/volumes/nobody/resolve", 404),
        ("GET", "/v1/volumes/.hidden", 400),
        ("GET", "/v1/volumes/a%2fb", 400),
        ("GET", "/v1/volumes/a%00b/snapshots", 400),
        ("GET", f"/v1/volumes/{'a' * 256}", 400),
        ("POST", "/v1/objects", 400),
        ("POST", "/v1/volumes", 405),
        ("DELETE", "/v1/volumes/nobody", 405),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v2/volumes", 404),
    ],
)
def test_errors_carry_status_and_code(shared: Daemon, method: str, path: str, status: int) -> None:
    answer = shared.request(method, path)
    assert answer.status == status
    assert answer.err
    assert set(answer.json) == {"Err", "code", "error"}


def test_metrics(daemon: Daemon) -> None:
    daemon.ok("Create", Name="v", Opts={"interval": "1h"})
    daemon.live("v", {"a": b"x" * 100_000})
    daemon.admin("POST", "/v1/volumes/v/snapshots", {}, 201)
    status, text = tcp(daemon, "GET", "/metrics")
    assert status == 200
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    count = len(daemon.admin("GET", "/v1/volumes/v/snapshots"))
    assert float(values['diffkeeper_delta_count{volume="v"}']) == count
    assert float(values['diffkeeper_logical_bytes{volume="v"}']) == 100_000
    assert 0 <= float(values['diffkeeper_snapshot_age_seconds{volume="v"}']) < 60
    assert float(values['diffkeeper_capture_seconds_count{volume="v"}']) >= 1
    assert float(values["diffkeeper_trouble"]) == 0
    for name in ("diffkeeper_recovery_total", "diffkeeper_recovery_seconds"):
        assert f"# TYPE {name} " in text


def test_the_tcp_listener_changes_nothing(shared: Daemon) -> None:
    assert tcp(shared, "GET", "/healthz") == (200, "ok\n")
    for path in ("/VolumeDriver.Create", "/VolumeDriver.List", "/v1/volumes", "/Plugin.Activate"):
        for method in ("GET", "POST"):
            assert tcp(shared, method, path)[0] == 404
    assert tcp(shared, "POST", "/metrics")[0] == 405


def sockets(daemon: Daemon) -> int:
    """How many sockets the daemon holds."""
    assert daemon.process is not None
    count = 0
    for link in Path(f"/proc/{daemon.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(link).startswith("socket:")
    return count


def test_connections_that_say_nothing_are_bounded(daemon: Daemon) -> None:
    host, port = daemon.admin("GET", "/v1/version")["listen"].rsplit(":", 1)
    with contextlib.ExitStack() as stack:
        many = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            for _ in range(3 * server.CONNECTIONS_MAX)
        ]
        many[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")  # its head never ends
        for each in many[: 2 * server.CONNECTIONS_MAX]:
            assert each.recv(1) == b"", "the oldest are ended"
        assert tcp(daemon, "GET", "/healthz") == (200, "ok\n")
        deadline = time.monotonic() + 30  # what is ended is closed a moment later
        while sockets(daemon) > server.CONNECTIONS_MAX + 10:
            assert time.monotonic() < deadline, sockets(daemon)
            time.sleep(0.05)
        daemon.ok("List")


def test_status_is_json_for_docker_inspect(daemon: Daemon) -> None:
    daemon.ok("Create", Name="v", Opts={"interval": "1h"})
    daemon.live("v", {"a": b"x"})
    daemon.admin("POST", "/v1/volumes/v/snapshots", {}, 201)
    status = daemon.ok("Get", Name="v")["Volume"]["Status"]
    assert status["last_snapshot"]["consistency"] == "crash"
    assert (status["files"], status["logical_bytes"], status["trouble"]) == (1, 1, [])
    mountpoint = daemon.ok("Path", Name="v")["Mountpoint"]
    assert Path(mountpoint, "a").read_bytes() == b"x"
