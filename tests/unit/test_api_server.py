"""Taking the socket: at once, closed to others, over a dead one, never over a live one.

And connections to the port that say nothing, or never end what they say.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from diffkeeper.api import server
from diffkeeper.api.health import Health
from diffkeeper.api.server import claim_socket
from diffkeeper.errors import ConflictError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffkeeper.api.checks import CheckedPaths
    from diffkeeper.service.service import VolumeService


@pytest.fixture
def path() -> Iterator[str]:
    """A path that is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="dk-") as directory:
        yield str(Path(directory) / "below" / "d.sock")


def connects(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def test_it_listens_at_once_and_for_its_owner_only(path: str) -> None:
    before = os.umask(0)
    try:
        listener = claim_socket(path)
        assert os.umask(0) == 0, "the process's own mask is put back"
    finally:
        os.umask(before)
    with listener:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert connects(path)


def test_a_dead_socket_is_replaced(path: str) -> None:
    claim_socket(path).close()
    assert os.path.exists(path)
    with claim_socket(path):
        assert connects(path)


def test_a_live_one_is_not(path: str) -> None:
    with claim_socket(path):
        with pytest.raises(ConflictError, match="another daemon answers"):
            claim_socket(path)
        assert connects(path)


def test_one_that_is_closed_in_a_moment_is_waited_for(path: str) -> None:
    """Such as by a child of a killed daemon, which holds it until it begins its own program."""
    held = claim_socket(path)
    closing = threading.Timer(0.3, held.close)
    closing.start()
    with claim_socket(path):
        assert connects(path)
    closing.join()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_nothing_but_a_socket_is_taken_away(path: str, kind: str) -> None:
    os.makedirs(os.path.dirname(path))
    if kind == "file":
        Path(path).write_text("precious")
    elif kind == "directory":
        os.mkdir(path)
    else:
        os.symlink("elsewhere", path)
    with pytest.raises(ConflictError, match="not a socket"):
        claim_socket(path)
    assert os.path.lexists(path)


def test_a_path_that_the_kernel_refuses(path: str) -> None:
    with pytest.raises(InvalidInputError):
        claim_socket(f"{os.path.dirname(path)}/{'x' * 120}")


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"PUT"])
async def test_a_connection_is_ended_that_asks_nothing(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "IDLE_SECONDS_MAX", 0.1)
    service = cast("VolumeService", None)  # nothing asks it
    health = Health(service)
    made = server.Server(service, health, cast("CheckedPaths", None))
    await made.serve_tcp(("127.0.0.1", 0))
    try:
        host, port = health.listen.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(said)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()
    finally:
        await made.close()
