"""The managed plugin in a private engine, and the means to look at it and to harm it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.docker.engine import REPOSITORY
from tests.support import processes

if TYPE_CHECKING:
    from tests.docker.engine import DockerEngine

SOCKETS: Final = Path("/run/docker/plugins")
CLI_SECONDS_MAX: Final = 120.0


@dataclass
class ManagedPlugin:
    """One plugin of one engine. `name` is what `docker volume create -d` takes."""

    engine: DockerEngine
    name: str
    build: Path
    state_source: Path
    port: int

    @property
    def settings(self) -> list[str]:
        """What `docker plugin set` takes to keep this plugin apart from any other."""
        return [
            f"state.source={self.state_source}",
            f"DIFFKEEPER_LISTEN=127.0.0.1:{self.port}",
        ]

    def create(self) -> None:
        """Creates the plugin from the build, with its settings, not enabled.

        An engine refuses content that it has under another plugin's name, hence the file with this
        one's name in it.
        """
        with tempfile.TemporaryDirectory(dir=self.build.parent) as copy:
            subprocess.run(["cp", "-al", f"{self.build}/.", copy], check=True)
            Path(copy, "rootfs", "etc", "plugin-of-the-test").write_text(self.name)
            self._does("create", *self.settings, DIFFKEEPER_PLUGIN_BUILD=copy)

    def enable(self, *, ready: bool = True) -> None:
        """Enables it and waits until it answers; not where it cannot be `ready`."""
        self._does("enable")
        if ready:
            self.wait_ready()

    def disable(self) -> None:
        """Disables it; by force, since an engine that knows a volume calls its plugin "in use"."""
        self._does("disable")

    def remove(self) -> None:
        """Removes the plugin, its root file system and its propagated mount; not the state."""
        self._does("remove")

    def discard(self) -> None:
        """Removes the plugin in whatever state a test has left it."""
        for step in ("disable", "remove"):
            self._attempt(step)

    def _does(self, step: str, *settings: str, **environment: str) -> None:
        done = self._attempt(step, *settings, **environment)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.engine.log[-2000:]}"

    def _attempt(
        self, step: str, *settings: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        command = [str(REPOSITORY / "scripts" / "plugin"), step, *settings]
        named = {"DIFFKEEPER_PLUGIN": self.name}
        return self.engine.run(*command, environment=named | environment)

    @property
    def id(self) -> str:
        return self.engine.docker("plugin", "inspect", "--format", "{{.Id}}", self.name)

    @property
    def socket(self) -> Path:
        """The plugin's socket as the host sees it."""
        return SOCKETS / self.id / "diffkeeper.sock"

    @property
    def pid(self) -> int:
        """The daemon's process, as the host numbers it."""
        task = "exec/containerd/daemon/io.containerd.runtime.v2.task/plugins.moby"
        return int((self.engine.run_dir / task / self.id / "init.pid").read_text())

    @property
    def state_dir(self) -> Path:
        """Where the plugin keeps its state, as the host sees it."""
        return self.state_source / "diffkeeper"

    @property
    def mount_dir(self) -> Path:
        """Where the volumes are mounted, as the host sees it."""
        return self.engine.data_dir / "plugins" / self.id / "propagated-mount"

    @property
    def log(self) -> list[str]:
        """The plugin's lines in the daemon's log, oldest first."""
        return [line for line in self.engine.log.splitlines() if f"plugin={self.id}" in line]

    def ready(self) -> bool:
        """Whether the daemon answers and has loaded its state."""
        try:
            return self.request("GET", "/v1/version")["loading"] is False
        except OSError:
            return False

    def wait_ready(self, seconds_max: float = 20.0) -> None:
        processes.wait_for(self.ready, f"plugin {self.name} answers", seconds_max)

    def kill(self) -> None:
        """kill -9 of the daemon, as the kernel does it when memory runs out; waits for the next."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        processes.wait_for(lambda: not processes.alive(pid), "the daemon is gone")
        processes.wait_for(self.ready, "dockerd has started the plugin again")
        assert self.pid != pid

    def request(self, method: str, path: str, message: object = None) -> Any:
        """One call of the admin API; the answer's JSON. Raises OSError when nobody answers."""
        connection = http.client.HTTPConnection("plugin", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.sock.settimeout(60)
            connection.sock.connect(str(self.socket))
            body = None if message is None else json.dumps(message).encode()
            connection.request(method, path, body)
            response = connection.getresponse()
            content = response.read()
            assert response.status in {200, 201}, content
            return json.loads(content)
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()

    def cli(
        self, *arguments: str, seconds_max: float = CLI_SECONDS_MAX
    ) -> subprocess.CompletedProcess[str]:
        """The command line against this plugin."""
        return subprocess.run(
            [sys.executable, "-m", "diffkeeper", "--socket", str(self.socket), *arguments],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY / "plugin")},
            capture_output=True,
            text=True,
            timeout=seconds_max,
            check=False,
        )

    def snapshots(self, volume: str) -> list[dict[str, Any]]:
        """The volume's snapshots, oldest first."""
        listed: list[dict[str, Any]] = self.request("GET", f"/v1/volumes/{volume}/snapshots")
        return listed

    def snapshot(self, volume: str) -> dict[str, Any]:
        """Takes a snapshot now; it is durable when this returns."""
        taken: dict[str, Any] = self.request("POST", f"/v1/volumes/{volume}/snapshots", {})
        return taken

    def live_dir(self, volume: str) -> Path:
        """The live directory of a volume, as `docker volume inspect` tells it."""
        inspect = ["volume", "inspect", "--format", "{{.Mountpoint}}", volume]
        live = Path(self.engine.docker(*inspect))
        assert live in self.live_dirs()
        return live

    def live_dirs(self) -> list[Path]:
        """All live directories of this plugin, as the host sees them."""
        return sorted((self.state_dir / "volumes").glob("*/live"))
