"""The real daemon with directories of its own, spoken to as dockerd does: over its socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START_SECONDS_MAX = 60.0
CALL_SECONDS_MAX = 300.0


@dataclass
class MeasuredDaemon:
    """`diffkeeper serve`, started by `start`; `close` ends it and takes everything away."""

    base: Path = field(
        default_factory=lambda: Path(tempfile.mkdtemp(prefix="dk-bench-", dir="/var/lib"))
    )
    process: subprocess.Popen[bytes] | None = None
    # Where a Docker Engine finds it by its name; else in its own folder.
    socket: Path | None = None

    @property
    def socket_path(self) -> Path:
        """The socket that it serves."""
        return self.socket or self.base / "d.sock"

    @property
    def log_path(self) -> Path:
        """What it has logged."""
        return self.base / "log"

    def start(self) -> None:
        """Start it and wait until its state is loaded."""
        # The users of a volume that are not root must get as far as their mount.
        self.base.chmod(0o755)
        command = [
            sys.executable,
            "-m",
            "diffkeeper",
            "serve",
            "--listen",
            "off",
            "--log-level",
            "debug",
        ]
        command += ["--socket", str(self.socket_path), "--state-dir", str(self.base / "state")]
        command += ["--mount-dir", str(self.base / "mounts")]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("DIFFKEEPER_")}
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=kept)
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the daemon does not start:\n{self.log_path.read_text()}")
            time.sleep(0.02)

    def _ready(self) -> bool:
        with contextlib.suppress(OSError):
            return not self.request("GET", "/v1/version")["loading"]
        return False

    def request(self, method: str, path: str, message: object = None) -> Any:
        """One request on a connection of its own; its JSON answer, which must be no error."""
        connection = http.client.HTTPConnection("d", timeout=CALL_SECONDS_MAX)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.sock.settimeout(CALL_SECONDS_MAX)
            connection.sock.connect(str(self.socket_path))
            body = None if message is None else json.dumps(message).encode()
            connection.request(method, path, body)
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status >= 300 or (isinstance(answer, dict) and answer.get("Err")):
            raise SystemExit(f"{method} {path}: {response.status} {answer}")
        return answer

    def call(self, call: str, **message: object) -> Any:
        """One call of the VolumeDriver protocol."""
        return self.request("POST", f"/VolumeDriver.{call}", message)

    def create(self, volume: str, **options: str) -> None:
        """A new volume."""
        self.call("Create", Name=volume, Opts=options)

    def mount(self, volume: str, mount_id: str = "bench") -> Path:
        """Mount; where."""
        return Path(self.call("Mount", Name=volume, ID=mount_id)["Mountpoint"])

    def unmount(self, volume: str, mount_id: str = "bench") -> None:
        """Unmount."""
        self.call("Unmount", Name=volume, ID=mount_id)

    def snapshot(self, volume: str) -> dict[str, Any]:
        """Take a snapshot; durable when this returns."""
        taken: dict[str, Any] = self.request("POST", f"/v1/volumes/{volume}/snapshots", {})
        return taken

    def snapshots(self, volume: str) -> list[dict[str, Any]]:
        """All snapshots, oldest first."""
        found: list[dict[str, Any]] = self.request("GET", f"/v1/volumes/{volume}/snapshots")
        return found

    def status(self, volume: str) -> dict[str, Any]:
        """What `docker volume inspect` shows."""
        found: dict[str, Any] = self.call("Get", Name=volume)["Volume"]["Status"]
        return found

    def stats(self) -> dict[str, int]:
        """Totals of the store, in bytes."""
        found: dict[str, int] = self.request("GET", "/v1/stats")
        return found

    def cpu_seconds(self) -> float:
        """CPU time of the daemon, all its threads, and the process that guards freezes."""
        ticks = 0
        for pid in self._processes():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> str:
        """Resident size of the daemon, and how much of it is its own and no file's."""
        assert self.process is not None
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        values = dict(line.split(":", 1) for line in lines)
        resident, own = (int(values[key].split()[0]) / 1000 for key in ("VmRSS", "RssAnon"))
        return f"{resident:.0f} MB, {own:.0f} of it its own"

    def _processes(self) -> list[int]:
        assert self.process is not None
        found = [self.process.pid]
        for children in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            found += map(int, children.read_text().split())
        return found

    def close(self) -> None:
        """End the daemon, unmount what it mounted, delete everything."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
        if self.socket is not None:
            self.socket.unlink(missing_ok=True)
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            point = line.split()[4]
            if point.startswith(f"{self.base}/"):
                subprocess.run(["umount", "--lazy", point], check=True)
        shutil.rmtree(self.base)
