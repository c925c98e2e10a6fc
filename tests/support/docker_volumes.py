"""Looks at volumes of a managed plugin from every side: dockerd's, the socket's, the host's."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any

from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from pathlib import Path

    from tests.docker.engine import DockerEngine
    from tests.docker.managed import ManagedPlugin


def call(path: Path, name: str, message: object) -> tuple[int, dict[str, Any]]:
    """One VolumeDriver call on the socket, past dockerd: HTTP status and answer.

    `message` is sent as it is when it is bytes, else as JSON.
    """
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    connection = http.client.HTTPConnection("plugin", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.settimeout(60)
        connection.sock.connect(str(path))
        connection.request("POST", f"/VolumeDriver.{name}", body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def inspect(engine: DockerEngine, volume: str) -> dict[str, Any]:
    """What `docker volume inspect` prints."""
    found: list[dict[str, Any]] = json.loads(engine.docker("volume", "inspect", volume))
    return found[0]


def status(engine: DockerEngine, volume: str) -> dict[str, Any]:
    """The plugin's Status, as `docker volume inspect` prints it."""
    found: dict[str, Any] = inspect(engine, volume)["Status"]
    return found


def mounts(engine: DockerEngine, volume: str) -> int:
    """How many mounts the plugin counts."""
    return int(status(engine, volume)["mounts"])


def live(engine: DockerEngine, plugin: ManagedPlugin, volume: str) -> Path:
    """The live directory on the host, mounted or not."""
    return plugin.state_dir / "volumes" / str(status(engine, volume)["id"]) / "live"


def mounted(plugin: ManagedPlugin, number: int) -> bool:
    """Whether the host has the volume with this id mounted."""
    point = str(plugin.mount_dir / str(number))
    return any(line.split()[4] == point for line in plugin.engine.root.mountinfo)


def restore(plugin: ManagedPlugin, reference: str, to: Path) -> Path:
    """A snapshot written to `to` by the command line; `VOLUME` or `VOLUME@SEQ`."""
    done = plugin.cli("restore", reference, "--to", str(to))
    assert done.returncode == 0, done.stdout + done.stderr
    return to


def check_newest(engine: DockerEngine, plugin: ManagedPlugin, volume: str, to: Path) -> None:
    """The newest snapshot holds the live directory, to the last attribute."""
    seq = plugin.snapshots(volume)[-1]["seq"]
    copy = restore(plugin, f"{volume}@{seq}", to)
    assert difference(describe(live(engine, plugin, volume)), describe(copy)) == []


def check_verified(plugin: ManagedPlugin, volume: str) -> None:
    """The plugin's own verification finds nothing."""
    report = plugin.request("POST", f"/v1/volumes/{volume}/verify", {"snapshot": None})
    assert report["ok"], report["faults"]
    assert report["complete"]
