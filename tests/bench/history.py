"""What history costs: snapshots of PostgreSQL a second apart, before and after maintenance.

The server and pgbench stand still (SIGSTOP) while a state is taken, so that the backup programs see
the very same states.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from diffkeeper.limits import CHUNK_BYTES_DEFAULT
from diffkeeper.snapshot.policy import CapturePolicy
from diffkeeper.space.maintenance import Maintenance
from tests.bench import peers
from tests.bench.data import cluster
from tests.bench.figures import Measurements, ratio
from tests.bench.goals import Goal, against, goals
from tests.support.capture_rig import CaptureRig
from tests.support.stored import thread_written_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.figures import FigureTable

MEGABYTE = 1_000_000
PAGE_BYTES = 4096
AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
CLIENTS = 4
# After that the server's cache is full and pages are written all the time.
WARM_SECONDS = 60


class LoadedPostgres:
    """PostgreSQL on a cluster, with its socket beside it, under pgbench."""

    def __init__(self, binaries: Path, base: Path, scale: int) -> None:
        self._binaries, self._sockets = binaries, base / "sockets"
        self.data = cluster(binaries, base)
        self._sockets.mkdir()
        shutil.chown(self._sockets, "postgres")
        command = [*AS_POSTGRES, str(binaries / "postgres"), "-D", str(self.data)]
        command += ["-c", "listen_addresses=", "-c", f"unix_socket_directories={self._sockets}"]
        self._server = self._started(command)
        self._load: subprocess.Popen[bytes] | None = None
        while self._client("psql", "-Atc", "select 1").returncode != 0:
            time.sleep(0.1)
        self._client("pgbench", "-i", "-q", "-s", str(scale))

    def _started(self, command: list[str]) -> subprocess.Popen[bytes]:
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, stdout=quiet, stderr=quiet, cwd="/")

    def _command(self, program: str, *arguments: str) -> list[str]:
        tool = str(self._binaries / program)
        return [*AS_POSTGRES, tool, "-h", str(self._sockets), *arguments, "postgres"]

    def _client(self, program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = self._command(program, *arguments)
        return subprocess.run(command, capture_output=True, check=False, cwd="/")

    def load(self) -> None:
        """Begin pgbench, and wait until it is warm."""
        load = self._command("pgbench", "-c", str(CLIENTS), "-j", "2", "-n", "-T", "100000")
        self._load = self._started(load)
        time.sleep(WARM_SECONDS)

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Nothing of it runs inside the block."""
        pids = self._pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def _pids(self) -> list[int]:
        assert self._load is not None
        below = Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children").read_text()
        return [self._load.pid, *map(int, below.split()), self._server.pid]

    def stop(self) -> None:
        """End both."""
        if self._load is not None:
            self._load.terminate()  # a shell may have told it to ignore SIGINT
            self._load.wait()
        self._server.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
        self._server.wait()


def run(binaries: Path, scale: int, states: int) -> list[FigureTable]:
    """One table: growth over so many states, ours before and after maintenance, and others'."""
    base = Path(tempfile.mkdtemp(prefix="diffkeeper-history-"))
    base.chmod(0o755)
    server = None
    try:
        server = LoadedPostgres(binaries, base, scale)
        server.load()
        return [_measured(server, base, states)]
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(base)


def _measured(server: LoadedPostgres, base: Path, states: int) -> FigureTable:
    bits = CHUNK_BYTES_DEFAULT.bit_length() - 1
    others = peers.installed(base)
    for peer in others:
        peer.prepare()
    policy = CapturePolicy(source="scan", freeze=False, chunk_bits=bits)
    with CaptureRig(base, policy, live=server.data) as rig:
        pages, sizes = Measurements(), []
        for number in range(states + 1):
            with server.still():
                before = thread_written_bytes()
                taken = rig.capture()
                written = thread_written_bytes() - before
                for peer in others:
                    peer.save(server.data, str(number))
            sizes.append([_used(rig), *(peer.stored_bytes() for peer in others)])
            if number:
                extra = written - taken.stored_bytes
                pages.values.append(extra / PAGE_BYTES)
            time.sleep(1)
        report = Maintenance(rig.store).run_all()
        table = goals(f"{states} snapshots of PostgreSQL under pgbench, MB added")
        both = zip(sizes[0], sizes[-1], strict=True)
        growth = [(last - first) / MEGABYTE for first, last in both]
        after = (_used(rig) - sizes[0][0]) / MEGABYTE
        named = zip(others, growth[1:], strict=True)
        told = ", ".join(f"{p.name} {g:.1f} MB ({ratio(g, after)} times)" for p, g in named)
        against(table, "before maintenance", Measurements([growth[0]]), Goal(25, " MB"), told)
        against(table, "after maintenance", Measurements([after]), Goal(15, " MB"), told)
        full = rig.store.used_bytes() / rig.store.totals()["stored_bytes"]
        against(table, "bytes in use for each encoded one", Measurements([full]), Goal(1.1, ""))
        against(table, "pages written beside a snapshot's objects", pages, None)
        against(table, "seconds of maintenance", Measurements([report.seconds]), None)
        table.notes.append(
            f"The first state: {sizes[0][0] / MEGABYTE:.1f} MB of"
            f" {rig.capture().bytes / MEGABYTE:.0f}; chunks of {CHUNK_BYTES_DEFAULT} bytes."
        )
        return table


def _used(rig: CaptureRig) -> int:
    return rig.store.used_bytes()
