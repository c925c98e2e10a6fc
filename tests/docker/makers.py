"""What the fixtures of the Docker tests give to a test."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

from tests.docker.managed import ManagedPlugin

PluginMaker = Callable[..., ManagedPlugin]
VolumeMaker = Callable[..., str]


@dataclass
class ImageRegistry:
    """A registry of images and plugins on loopback."""

    address: str

    def reference(self, tag: str) -> str:
        """A name that is pushed to, and pulled from, this registry."""
        return f"{self.address}/diffkeeper:{tag}"


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
