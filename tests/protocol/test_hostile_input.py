"""Any bytes on the socket get a clear `Err` or a closed connection, and change nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

NAMES = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/etc",
    "-o",
    ".hidden",
    "a b",
    "a\n",
    "a\0b",
    "\x1b[31m",
    "näme",
    "名",
    "\ud800",
    "a" * 256,
    "a" * 4096,
    "a\\b",
    "%2e%2e",
]
CALLS_WITH_A_NAME = ["Create", "Remove", "Mount", "Unmount", "Path", "Get"]


def unchanged(daemon: Daemon) -> None:
    assert daemon.ok("List")["Volumes"] == []


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:12]))
def test_hostile_names(shared: Daemon, name: str) -> None:
    for call in CALLS_WITH_A_NAME:
        answer = shared.call(call, Name=name, ID="1", Opts={})
        assert answer.status == 500, call
        assert "volume name" in answer.err, call
        assert len(answer.err) < 400, "a long name is not repeated in full"
        assert answer.err.replace("…", "").isprintable()
    unchanged(shared)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \n",
        b"{",
        b"[]",
        b"null",
        b"1e999",
        b"\xff\xfe{}",
        b"\x00",
        b"[" * 200_000,
        b'{"Name": null, "ID": null}',
        b'{"Name": 1, "ID": "1"}',
        b'{"Name": ["v"], "ID": "1"}',
        b'{"ID": "1"}',
        b'{"name": "v", "id": "1"}',
        b'{"Name": "v", "Name": "../x", "ID": "1"}',
    ],
    ids=lambda body: ascii(body[:24]),
)
def test_malformed_bodies(shared: Daemon, body: bytes) -> None:
    for call in CALLS_WITH_A_NAME:
        if call == "Get" and not body.strip():
            continue  # dockerd's own retries are such, and get no answer
        answer = shared.request("POST", f"/VolumeDriver.{call}", body)
        assert answer.status == 500, call
        assert answer.err, call
    unchanged(shared)
    assert "Traceback" not in shared.log


@pytest.mark.parametrize(
    "message",
    [
        {"Name": "v", "Opts": []},
        {"Name": "v", "Opts": "interval=1s"},
        {"Name": "v", "Opts": {"interval": 1}},
        {"Name": "v", "Opts": {"interval": None}},
        {"Name": "v", "Opts": {f"o{i}": "" for i in range(1000)}},
    ],
)
def test_options_of_a_wrong_type(shared: Daemon, message: dict[str, object]) -> None:
    answer = shared.call("Create", **message)
    assert answer.status == 500
    assert answer.err
    unchanged(shared)


@pytest.mark.parametrize("mount_id", ["", " ", "a\nb", "x" * 257, "é", None, 7, {}])
def test_mount_ids_of_a_wrong_form(daemon: Daemon, mount_id: object) -> None:
    daemon.ok("Create", Name="v")
    for call in ("Mount", "Unmount"):
        answer = daemon.call(call, Name="v", ID=mount_id)
        assert answer.status == 500
        assert "ID" in answer.err
    daemon.ok("Remove", Name="v")


def test_an_oversized_body_is_refused(shared: Daemon) -> None:
    body = json.dumps({"Name": "v", "Opts": {"interval": "1" * (2 << 20)}}).encode()
    connection = shared.connect()
    head = b"POST /VolumeDriver.Create HTTP/1.1\r\nHost: d\r\nContent-Length: %d\r\n\r\n"
    with connection:
        connection.sendall(head % len(body))
        answer = connection.recv(65536)
    assert b" 500 " in answer.split(b"\r\n")[0]
    assert b"larger than" in answer
    unchanged(shared)


def test_an_endless_chunked_body_is_refused(shared: Daemon) -> None:
    head = b"POST /VolumeDriver.Create HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n"
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with shared.connect() as connection:
        connection.sendall(head + piece * 17)
        answer = connection.recv(65536)
    assert b"larger than" in answer
    unchanged(shared)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
def test_a_wrong_method(shared: Daemon, method: str) -> None:
    answer = shared.request(method, "/VolumeDriver.Create", b'{"Name": "v"}')
    assert answer.status == 405
    assert answer.headers["Allow"] == "POST"
    if method != "HEAD":
        assert "POST" in answer.err
    unchanged(shared)


@pytest.mark.parametrize(
    "path",
    ["/", "/VolumeDriver.Destroy", "/VolumeDriver.Create/", "/..%2fVolumeDriver.Get", "/v1/x"],
)
def test_an_unknown_call(shared: Daemon, path: str) -> None:
    answer = shared.request("POST", path, b"{}")
    assert answer.status == 404
    assert answer.err


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00" * 100,
        b"GET\r\n\r\n",
        b"POST /VolumeDriver.Get HTTP/9.9\r\n\r\n",
        b"POST /VolumeDriver.Get HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /VolumeDriver.Get HTTP/1.1\r\nContent-Length: 10\r\n\r\n{",
        b"POST /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"",
    ],
    ids=lambda garbage: ascii(garbage[:40]),
)
def test_garbage_on_the_socket(shared: Daemon, garbage: bytes) -> None:
    with shared.connect() as connection:
        connection.sendall(garbage)
    unchanged(shared)


def test_idle_connections_do_not_shut_others_out(shared: Daemon) -> None:
    idle = [shared.connect() for _ in range(200)]
    try:
        unchanged(shared)
    finally:
        for connection in idle:
            connection.close()
