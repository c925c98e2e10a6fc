"""Snapshots of PostgreSQL under pgbench: how long it is frozen, and what it loses.

The server runs as a container's would: in a mount namespace and a cgroup of its own, with the
volume bound at a place that the host does not have.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from diffkeeper.freeze.cgroups import Hierarchy
from tests.bench.data import cluster
from tests.bench.figures import Sample, Table, ratio, short

if TYPE_CHECKING:
    from tests.bench.daemon import Daemon

CLIENTS = 4
START_SECONDS_MAX = 60.0
SETTINGS = "-c max_wal_size=256MB -c checkpoint_timeout=30s -c shared_buffers=64MB"
# $1 cgroup, $2 data, $3 place, $4 postgres, $5 folder of its socket.
SERVER = f"""
echo $$ > "$1/cgroup.procs"
mount --bind "$2" "$3"
exec setpriv --reuid=postgres --regid=postgres --clear-groups \
    "$4" -D "$3/data" -k "$5" -c listen_addresses= {SETTINGS}
"""


@dataclass
class Server:
    """PostgreSQL on the folder `data` below `source`."""

    name: str
    binaries: Path
    base: Path
    source: Path
    cgroup: Path
    process: subprocess.Popen[bytes] | None = None
    tps: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Start it and wait until it answers."""
        place, run = self.base / f"{self.name}-place", self.base / f"{self.name}-run"
        for directory in (place, run):
            directory.mkdir()
        run.chmod(0o777)
        self.cgroup.mkdir()
        server = str(self.binaries / "postgres")
        arguments = [str(self.cgroup), str(self.source), str(place), server, str(run)]
        with open(self.base / f"{self.name}.log", "wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-euc", SERVER, "sh"]
                + arguments,
                stdout=log,
                stderr=log,
                cwd="/",
            )
        deadline = time.monotonic() + START_SECONDS_MAX
        while self._client("psql", "-Atc", "SELECT 1").returncode != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit((self.base / f"{self.name}.log").read_text())
            time.sleep(0.1)

    def _client(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.binaries / program), "-h", str(self.base / f"{self.name}-run")]
        command += ["-U", "postgres", *arguments, "postgres"]
        return subprocess.run(command, capture_output=True, text=True)

    def fill(self, scale: int) -> None:
        """Tables of pgbench."""
        done = self._client("pgbench", "-i", "-q", "-s", str(scale))
        if done.returncode != 0:
            raise SystemExit(done.stderr)

    def load(self, seconds: int) -> None:
        """pgbench for that long; adds its transactions per second."""
        done = self._client("pgbench", "-n", "-c", str(CLIENTS), "-j", "2", "-T", str(seconds))
        found = re.search(r"tps = ([0-9.]+)", done.stdout)
        if done.returncode != 0 or found is None:
            raise SystemExit(done.stdout + done.stderr)
        self.tps.append(float(found[1]))

    def stop(self) -> None:
        """A fast shutdown, and the cgroup is gone."""
        if self.process is not None:
            os.kill(self.process.pid, 2)
            self.process.wait(60)
        deadline = time.monotonic() + 10
        while self.cgroup.exists():
            try:
                self.cgroup.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def measure(daemon: Daemon, binaries: Path, pairs: int, seconds: int, scale: int) -> Table:
    """`pairs` runs of pgbench on the volume and on a plain directory, in turns."""
    base = daemon.base / "postgres"
    base.mkdir()
    servers = _servers(daemon, binaries, base, scale)
    volume, plain = servers
    try:
        for server in servers:
            server.start()
            server.fill(scale)
        daemon.snapshot("postgres")
        before = daemon.snapshots("postgres")[-1]["seq"]
        cpu = elapsed = 0.0
        for number in range(pairs):
            # Which one goes first changes, so that neither always meets a warmer machine.
            for server in (volume, plain) if number % 2 == 0 else (plain, volume):
                used, started = daemon.cpu_seconds(), time.monotonic()
                server.load(seconds)
                if server is volume:
                    cpu += daemon.cpu_seconds() - used
                    elapsed += time.monotonic() - started
        status = daemon.status("postgres")
        floor = _floor(volume.cgroup)
    finally:
        for server in servers:
            server.stop()
    taken = [s for s in daemon.snapshots("postgres") if s["seq"] > before]
    daemon.unmount("postgres")
    effective = str(status["capture"]["effective_interval"])
    return _table(taken, servers, floor, (cpu, elapsed), effective)


def _servers(daemon: Daemon, binaries: Path, base: Path, scale: int) -> tuple[Server, Server]:
    source = cluster(binaries, base)
    daemon.create("postgres", verify="off")
    places = {"volume": daemon.mount("postgres"), "plain": base / "plain"}
    places["plain"].mkdir()
    hierarchy = Hierarchy("/sys/fs/cgroup")
    root = Path(hierarchy.v1 or hierarchy.v2)
    made = []
    for name, place in places.items():
        subprocess.run(["cp", "-a", str(source), str(place / "data")], check=True)
        cgroup = root / f"{daemon.base.name}-{name}"
        made.append(Server(name, binaries, base, place, cgroup))
    return made[0], made[1]


def _floor(cgroup: Path) -> Sample:
    """Freezing and thawing the idle server's cgroup by hand: what no freeze can do without."""
    v1 = cgroup / "freezer.state"
    sample = Sample()
    for _ in range(100):
        with sample.timed():
            if v1.exists():
                v1.write_text("FROZEN")
                while v1.read_text() != "FROZEN\n":
                    pass
                v1.write_text("THAWED")
            else:
                (cgroup / "cgroup.freeze").write_text("1")
                while "frozen 1" not in (cgroup / "cgroup.events").read_text():
                    pass
                (cgroup / "cgroup.freeze").write_text("0")
    return sample


def _table(
    taken: list[dict[str, object]],
    servers: tuple[Server, Server],
    floor: Sample,
    cpu: tuple[float, float],
    effective: str,
) -> Table:
    volume, plain = servers
    freeze, capture = Sample(_numbers(taken, "freeze_ms")), Sample(_numbers(taken, "capture_ms"))
    fuzzy = sum(each["consistency"] == "fuzzy" for each in taken)
    ratios = Sample([a / b for a, b in zip(volume.tps, plain.tps, strict=True)])
    table = Table(
        f"PostgreSQL under pgbench -c {CLIENTS}, interval 1 s",
        ("what", "figure", "limit in the same run"),
    )
    rows = (
        ("frozen, p50 / p99 / max ms", freeze.tail(), f"by hand, idle: {floor.tail()}"),
        ("capture, p50 / p99 / max ms", capture.tail(), ""),
        ("snapshots, of them fuzzy", f"{len(taken)}, {fuzzy}", f"interval at the end {effective}"),
        ("stored per snapshot, MB", _megabytes(taken), ""),
        (
            "CPU seconds of the daemon per second",
            f"{cpu[0] / cpu[1]:.3f}",
            "budget of captures 0.05",
        ),
        ("TPS on the volume", Sample(volume.tps).spread(), f"plain: {Sample(plain.tps).spread()}"),
        ("volume over plain, by pairs", ratios.spread(), "1"),
    )
    for row in rows:
        table.add(*row)
    if freeze.values:
        over = ratio(freeze.median, floor.median)
        table.notes.append(f"The median freeze is {over} times one by hand.")
    table.notes.append("One pair of ten seconds resolves about 10 %: for less, take more pairs.")
    return table


def _numbers(taken: list[dict[str, object]], key: str) -> list[float]:
    return [float(str(each[key])) for each in taken if key != "freeze_ms" or each[key]]


def _megabytes(taken: list[dict[str, object]]) -> str:
    return short(sum(_numbers(taken, "stored_bytes")) / max(1, len(taken)) / 1e6)
