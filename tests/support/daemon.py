"""The real daemon as a process, spoken to as dockerd does: raw HTTP on its Unix socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffkeeper

Json = dict[str, Any]
START_SECONDS_MAX = 60.0
ACCEPT = "application/vnd.docker.plugins.v1.2+json"


@dataclass
class HttpAnswer:
    """Status and body of one HTTP answer."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def err(self) -> str:
        """The `Err` text, which every driver answer has to carry when something went wrong."""
        return str(self.json["Err"])


def serve_command(socket: Path, state: Path, mounts: Path, listen: str) -> list[str]:
    """`diffkeeper serve` on these paths; listen: address of its page of metrics, or "off"."""
    command = [sys.executable, "-m", "diffkeeper", "serve", "--socket", str(socket)]
    command += ["--state-dir", str(state), "--mount-dir", str(mounts)]
    return [*command, "--listen", listen]


@dataclass
class Daemon:
    """One daemon with directories of its own.

    environment: above that of `package_environment`, which has eBPF off. socket_at: where its
    socket is, if not in `base`.
    """

    base: Path
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    socket_at: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    spawned: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def path(self) -> str:
        return str(self.socket_at or self.base / "d.sock")

    @property
    def state_dir(self) -> Path:
        return self.base / "state"

    @property
    def log(self) -> str:
        return (self.base / "log").read_text()

    def spawn(self, *extra: str) -> subprocess.Popen[bytes]:
        """Start a process without waiting for it; its output goes to the log."""
        mounts = self.base / "mounts"
        command = serve_command(Path(self.path), self.state_dir, mounts, "127.0.0.1:0")
        command += [*self.arguments, *extra]
        environment = {**package_environment(), **self.environment}
        with open(self.base / "log", "ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self.spawned.append(process)
        return process

    def start(self, *extra: str) -> None:
        """Start, and wait until the state is loaded."""
        self.process = self.spawn(*extra)
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the daemon ended at once:\n{self.log}"
            with contextlib.suppress(OSError):
                if not self.request("GET", "/v1/version").json["loading"]:
                    return
            time.sleep(0.02)
        raise AssertionError(f"the daemon is not ready:\n{self.log}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the process; returns its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.process = None
        return code

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        seconds_max: float = 30.0,
        headers: dict[str, str] | None = None,
    ) -> HttpAnswer:
        """One request on a connection of its own, without a Content-Type, as dockerd sends it."""
        connection = http.client.HTTPConnection("d", timeout=seconds_max)
        connection.sock = self.connect(seconds_max)
        try:
            connection.request(method, path, body, {"Accept": ACCEPT, **(headers or {})})
            response = connection.getresponse()
            return HttpAnswer(response.status, response.read(), dict(response.headers))
        finally:
            connection.close()

    def connect(self, seconds_max: float = 30.0) -> socket.socket:
        """A bare connection to the socket."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(seconds_max)
        try:
            connection.connect(self.path)
        except OSError:
            connection.close()
            raise
        return connection

    def call(self, call: str, **message: object) -> HttpAnswer:
        """One VolumeDriver call."""
        body = json.dumps(message).encode()
        return self.request("POST", f"/VolumeDriver.{call}", body)

    def ok(self, call: str, **message: object) -> Json:
        """One VolumeDriver call that must succeed."""
        answer = self.call(call, **message)
        assert (answer.status, answer.json.get("Err", "")) == (200, ""), answer.body
        return dict(answer.json)

    def admin(self, method: str, path: str, message: object = None, status: int = 200) -> Any:
        """One admin call that must give this status."""
        body = None if message is None else json.dumps(message).encode()
        answer = self.request(method, path, body)
        assert answer.status == status, answer.body
        return answer.json

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command line against this daemon."""
        return subprocess.run(
            [sys.executable, "-m", "diffkeeper", "--socket", self.path, *arguments],
            env=package_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def mounted(self, mountpoint: str) -> bool:
        """Whether exactly one thing is mounted there."""
        found = mount_points().count(mountpoint)
        assert found < 2, f"{mountpoint} is mounted {found} times over"
        return found == 1

    def live(self, volume: str, content: dict[str, bytes]) -> None:
        """Mount the volume, write files, take a snapshot; it stays mounted with ID `w`."""
        mountpoint = self.ok("Mount", Name=volume, ID="w")["Mountpoint"]
        for name, text in content.items():
            Path(mountpoint, name).write_bytes(text)

    def clean(self) -> None:
        """End every process and take away what they mounted."""
        for process in self.spawned:
            process.kill()
            process.wait(60)
        if self.socket_at is not None:
            self.socket_at.unlink(missing_ok=True)
        unmount_below(self.base)
        # A removal of the daemon's may still be under way; rm(1) does not mind.
        subprocess.run(["rm", "-rf", "--one-file-system", str(self.base)], check=True)


def package_environment() -> dict[str, str]:
    """The environment with this very package on the path, and without settings of the caller's.

    Only tests of eBPF load it: each daemon would compile it anew.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DIFFKEEPER_")}
    return {
        **kept,
        "DIFFKEEPER_EBPF": "off",
        "PYTHONPATH": str(Path(diffkeeper.__file__).parents[1]),
    }


def mount_points() -> list[str]:
    """Every mount point; a bind within one file system looks like no mount to `os.path.ismount`."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines]


def unmount_below(base: Path) -> None:
    """Unmount everything below `base`, the innermost first."""
    for point in reversed([p for p in mount_points() if p.startswith(f"{base}/")]):
        subprocess.run(["umount", "--lazy", point], check=True)


def write_states(daemon: Daemon, count: int, volume: str = "v", **options: str) -> list[int]:
    """A mounted volume with so many snapshots; in each the file `a` has the snapshot's number."""
    daemon.ok("Create", Name=volume, Opts={"interval": "1h", "retention": "all", **options})
    mountpoint = Path(daemon.ok("Mount", Name=volume, ID="w")["Mountpoint"])
    taken = []
    for number in range(count):
        (mountpoint / "a").write_text(f"{volume} {number}\n")
        path = f"/v1/volumes/{volume}/snapshots"
        taken.append(daemon.admin("POST", path, {}, 201)["seq"])
    return taken


def tcp(daemon: Daemon, method: str, path: str) -> tuple[int, str]:
    """One request to the daemon's TCP listener."""
    host, port = daemon.admin("GET", "/v1/version")["listen"].rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.request(method, path)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text
