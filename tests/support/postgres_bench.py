"""PostgreSQL in a container under pgbench, and the checks that its data is whole."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.docker.engine import EXEC_ATTEMPTS_MAX
from tests.support.processes import wait_for

if TYPE_CHECKING:
    from tests.docker.engine import DockerEngine

PLACE: Final = "/var/lib/postgresql/data"
WAL_PLACE: Final = "/var/lib/postgresql/wal"
# Frequent checkpoints and a small log keep heap, indexes and log all changing at once.
SETTINGS: Final = ("-c", "checkpoint_timeout=30s", "-c", "max_wal_size=64MB")
# By then an exec has been refused, if it is.
REFUSED_SECONDS_MAX: Final = 1.0
SUMS: Final = """
SELECT (SELECT sum(abalance) FROM pgbench_accounts),
       (SELECT sum(tbalance) FROM pgbench_tellers),
       (SELECT sum(bbalance) FROM pgbench_branches),
       (SELECT coalesce(sum(delta), 0) FROM pgbench_history),
       (SELECT count(*) FROM pgbench_history)
"""


@dataclass
class PostgresContainer:
    """A container with PostgreSQL on `source`: a volume's name, or a directory of the host.

    `wal`: another one for its write-ahead log, if it has one of its own.
    """

    engine: DockerEngine
    image: str
    source: str
    container: str = ""
    wal: str = ""

    def start(self) -> None:
        """Starts the container, the same one again after the first time."""
        if self.container:
            self.engine.docker("start", self.container)
        else:
            run = ["run", "--detach", "--network", "none", "--volume", f"{self.source}:{PLACE}"]
            if self.wal:
                run += ["--volume", f"{self.wal}:{WAL_PLACE}"]
                run += ["--env", f"POSTGRES_INITDB_ARGS=--waldir={WAL_PLACE}/log"]
            run += ["--env", "POSTGRES_HOST_AUTH_METHOD=trust", self.image, "postgres", *SETTINGS]
            self.container = self.engine.docker(*run)
        wait_for(self.answers, "PostgreSQL answers", 90)

    def execute(self, *command: str) -> str:
        """Output of a command inside the container."""
        return self.engine.docker("exec", "--user", "postgres", self.container, *command)

    def answers(self) -> bool:
        """Whether queries are answered; fails when the server has ended."""
        command = ["exec", "--user", "postgres", self.container, "psql", "-Atc", "SELECT 1"]
        if self.engine.attempt(*command).returncode == 0:
            return True
        running = self.engine.docker("inspect", "-f", "{{.State.Running}}", self.container)
        assert running == "true", self.engine.attempt("logs", self.container).stderr[-4000:]
        return False

    def initialise(self, scale: int) -> None:
        """Tables of pgbench, and the extension that the checks need."""
        self.execute("psql", "-qc", "CREATE EXTENSION amcheck")
        self.execute("pgbench", "-i", "-q", "-s", str(scale))

    def load(self, seconds: int) -> subprocess.Popen[str]:
        """pgbench with four clients in the background; one that met a freeze is repeated."""
        command = ["docker", "exec", "--user", "postgres", self.container, "pgbench"]
        command += ["-c", "4", "-T", str(seconds), "-n"]
        for _ in range(EXEC_ATTEMPTS_MAX):
            process = subprocess.Popen(
                command,
                env=self.engine.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            try:
                output, _ = process.communicate(timeout=REFUSED_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                return process
            assert "in a paused container" in output, output
        raise AssertionError(f"{EXEC_ATTEMPTS_MAX} times over it met a freeze")

    def kill(self) -> None:
        """kill -9 of the container."""
        self.engine.docker("kill", self.container)
        self.engine.docker("wait", self.container)

    def remove(self) -> None:
        """The container goes; what it wrote stays."""
        if self.container:
            self.engine.docker("rm", "--force", self.container)
            self.container = ""

    def check(self) -> int:
        """Heap and indexes agree, and so do the sums; returns how many transactions there are."""
        self.execute("pg_amcheck", "--heapallindexed", "--parent-check", "--database", "postgres")
        accounts, tellers, branches, history, count = (
            int(number) for number in self.execute("psql", "-Atc", SUMS).split("|")
        )
        assert accounts == tellers == branches == history, (accounts, tellers, branches, history)
        return count

    def transactions(self) -> int:
        """How many transactions of pgbench are committed."""
        return int(self.execute("psql", "-Atc", "SELECT count(*) FROM pgbench_history"))


def wait_transactions(server: PostgresContainer, more: int, seconds_max: float = 60.0) -> int:
    """Waits for that many more; returns how many there are."""
    target = server.transactions() + more
    deadline = time.monotonic() + seconds_max
    while (count := server.transactions()) < target:
        assert time.monotonic() < deadline, f"{count} transactions, {target} awaited"
        time.sleep(0.2)
    return count
