"""The real daemon for benchmarks: with eBPF, as users run it, and any error ends the run."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from tests.support.daemon import Daemon

CALL_SECONDS_MAX = 300.0
PLUGINS = Path("/run/docker/plugins")


class MeasuredDaemon:
    """`diffkeeper serve`, started by `start`; `close` ends it and takes everything away."""

    def __init__(self, *, found_by_engine: bool = False) -> None:
        """found_by_engine: its socket is where a Docker Engine finds it by the name of `base`."""
        self.base = Path(tempfile.mkdtemp(prefix="dk-bench-", dir="/var/lib"))
        self.name = self.base.name
        # The users of a volume that are not root must get as far as their mount.
        self.base.chmod(0o755)
        if found_by_engine:
            PLUGINS.mkdir(parents=True, exist_ok=True)
        self._daemon = Daemon(
            self.base,
            ["--listen", "off", "--log-level", "debug"],
            {"DIFFKEEPER_EBPF": "start"},
            PLUGINS / f"{self.name}.sock" if found_by_engine else None,
        )

    @property
    def log_path(self) -> Path:
        """What it has logged."""
        return self.base / "log"

    def start(self) -> None:
        """Start it and wait until its state is loaded."""
        self._daemon.start()

    def request(self, method: str, path: str, message: object = None) -> Any:
        """One request on a connection of its own; its JSON answer, which must be no error."""
        body = None if message is None else json.dumps(message).encode()
        done = self._daemon.request(method, path, body, CALL_SECONDS_MAX)
        answer = done.json
        if done.status >= 300 or (isinstance(answer, dict) and answer.get("Err")):
            raise SystemExit(f"{method} {path}: {done.status} {answer}")
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
        lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
        values = dict(line.split(":", 1) for line in lines)
        resident, own = (int(values[key].split()[0]) / 1000 for key in ("VmRSS", "RssAnon"))
        return f"{resident:.0f} MB, {own:.0f} of it its own"

    @property
    def _pid(self) -> int:
        assert self._daemon.process is not None
        return self._daemon.process.pid

    def _processes(self) -> list[int]:
        found = [self._pid]
        for children in Path(f"/proc/{self._pid}/task").glob("*/children"):
            found += map(int, children.read_text().split())
        return found

    def close(self) -> None:
        """End the daemon, unmount what it mounted, delete everything."""
        if self._daemon.process is not None:
            self._daemon.stop()
        self._daemon.clean()
