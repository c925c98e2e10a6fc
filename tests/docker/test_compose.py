"""Volumes of a compose file with `driver: diffkeeper`."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support import docker_volumes as volumes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.docker.engine import DockerEngine
    from tests.docker.managed import ManagedPlugin

PROJECT = "dkcompose"
VOLUME = f"{PROJECT}_data"
WRITE = "echo started >> /data/starts; exec sleep 600"


def compose_command(engine: DockerEngine) -> list[str] | None:
    """The plugin of newer clients, or the standalone program of older ones."""
    for program in (["docker", "compose"], ["docker-compose"]):
        command = engine.root.command(*program)
        done = subprocess.run(
            [*command, "version"], env=engine.environment, capture_output=True, check=False
        )
        if done.returncode == 0:
            return command
    return None


@dataclass
class Project:
    """A compose file and the program that works on it."""

    engine: DockerEngine
    file: Path
    options: dict[str, str]

    def write(self, image: str, driver: str) -> None:
        """One service that notes its starts, another one that reads them; both on one volume."""
        service = {"image": image, "network_mode": "none", "volumes": ["data:/data"]}
        content = {
            "version": "3.7",
            "services": {
                "writer": {**service, "command": ["sh", "-c", WRITE], "stop_grace_period": "0s"},
                "reader": {**service, "command": ["sleep", "600"], "stop_grace_period": "0s"},
            },
            "volumes": {"data": {"driver": driver, "driver_opts": self.options}},
        }
        self.file.write_text(json.dumps(content))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = compose_command(self.engine)
        assert command is not None
        return subprocess.run(
            [*command, "--project-name", PROJECT, "--file", str(self.file), *arguments],
            env=self.engine.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def must(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def project(engine: DockerEngine, plugin: ManagedPlugin, tmp_path: Path) -> Iterator[Project]:
    """A project that is taken down after the test."""
    if compose_command(engine) is None:
        pytest.skip("needs docker-compose or the compose plugin of docker")
    assert plugin.ready()
    made = Project(engine, tmp_path / "compose.json", {"interval": "300ms"})
    yield made
    made.run("down", "--volumes", "--timeout", "0")


@pytest.mark.engines
def test_up_down_and_up_again(
    engine: DockerEngine, plugin: ManagedPlugin, project: Project, base_image: str
) -> None:
    """The volume outlives `down`.

    Compose 1 compares the driver's name with the one that dockerd reports for a volume that exists
    already, which carries the tag of a managed plugin; so from the second time on it needs the tag.
    """
    for start, driver in ((1, plugin.name), (2, f"{plugin.name}:latest")):
        project.write(base_image, driver)
        project.must("up", "--detach")
        read = project.must("exec", "-T", "reader", "cat", "/data/starts")
        assert read == "started\n" * start
        assert volumes.mounts(engine, VOLUME) == 2
        found = volumes.inspect(engine, VOLUME)
        assert found["Driver"] == f"{plugin.name}:latest"
        assert found["Options"] == {"interval": "300ms"}
        project.must("down", "--timeout", "0")
        assert volumes.mounts(engine, VOLUME) == 0
        assert volumes.status(engine, VOLUME)["last_verification"]["ok"] is True
    project.must("down", "--volumes")
    assert VOLUME not in engine.docker("volume", "ls", "-q").split()


@pytest.mark.engines
def test_down_with_volumes_and_back(
    engine: DockerEngine, plugin: ManagedPlugin, project: Project, base_image: str
) -> None:
    """`down --volumes` of running containers is taken back by `undelete`."""
    project.write(base_image, f"{plugin.name}:latest")
    project.must("up", "--detach")
    project.must("exec", "-T", "reader", "sh", "-c", "echo by hand >> /data/starts")
    project.must("down", "--volumes", "--timeout", "0")
    assert VOLUME not in engine.docker("volume", "ls", "-q").split()
    removed = [v for v in plugin.request("GET", "/v1/trash") if v["name"] == VOLUME]
    newest = max(removed, key=lambda v: int(v["id"]))
    back = plugin.cli("undelete", str(newest["id"]))
    assert back.returncode == 0, back.stderr
    # The engine has forgotten the options, which Compose compares; it takes them as for a new one.
    options = ["-o", f"interval={project.options['interval']}"]
    engine.docker("volume", "create", "-d", plugin.name, *options, VOLUME)
    project.must("up", "--detach")
    read = project.must("exec", "-T", "reader", "cat", "/data/starts")
    assert read == "started\nby hand\nstarted\n"
    project.must("down", "--volumes", "--timeout", "0")


def test_bad_driver_opts(
    engine: DockerEngine, plugin: ManagedPlugin, project: Project, base_image: str
) -> None:
    project.options = {"intervall": "1s"}
    project.write(base_image, plugin.name)
    refused = project.run("up", "--detach")
    assert refused.returncode != 0
    assert "interval=<100ms to 30d>" in refused.stdout + refused.stderr
    assert VOLUME not in engine.docker("volume", "ls", "-q").split()
