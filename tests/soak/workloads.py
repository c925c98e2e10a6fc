"""The workloads as the host sees them: a volume and a container each, and checks of copies."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.docker.engine import DockerEngine
    from tests.docker.managed import ManagedPlugin

KINDS: Final = ("postgres", "maria", "redis", "sqlite", "files")
PACKAGES: Final = (
    "postgresql,mariadb-server,redis-server,python3,python3-psycopg2,python3-pymysql,python3-redis"
)
IMAGE: Final = "dk-soak:test"
HERE: Final = Path(__file__).parent
BEGIN_SECONDS_MAX: Final = 300.0
CHECK_SECONDS_MAX: Final = 600.0


@dataclass
class Workload:
    """One kind. findings: what went wrong of it."""

    engine: DockerEngine
    plugin: ManagedPlugin
    kind: str
    ledger: Path
    options: tuple[str, ...]
    environment: Mapping[str, int]
    container: str = ""
    findings: list[str] = field(default_factory=list)
    told: int = 0
    begun: int = 0  # sequence number of a snapshot that has its database
    excused: bool = False  # its disk is, or was lately, full

    @property
    def volume(self) -> str:
        """The volume's name."""
        return f"soak-{self.kind}"

    @property
    def acknowledged(self) -> int:
        """How many numbers were acknowledged."""
        path = self.ledger / self.kind
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def start(self) -> None:
        """Volume and container."""
        given = [word for option in self.options for word in ("-o", option)]
        self.engine.docker("volume", "create", "-d", self.plugin.name, *given, self.volume)
        self.container = self.engine.docker(
            *self._command(("--detach", f"--volume={self.volume}:/data"), "serve")
        )

    def begin(self) -> None:
        """Wait for its first number, and a snapshot after it: earlier ones may have half a
        database.
        """
        wait_for(lambda: self.acknowledged > 0, f"{self.kind} commits", BEGIN_SECONDS_MAX)
        self.begun = self._newest() + 1
        wait_for(
            lambda: self._newest() >= self.begun, f"{self.kind} has a snapshot", BEGIN_SECONDS_MAX
        )

    def _newest(self) -> int:
        """Sequence number of the newest snapshot; 0 where there is none."""
        return max((each["seq"] for each in self.plugin.snapshots(self.volume)), default=0)

    def _command(self, how: tuple[str, ...], action: str) -> tuple[str, ...]:
        return (
            "run", "--network=none", *how,
            f"--volume={HERE}:/soak:ro", f"--volume={self.ledger}:/ledger",
            *(f"--env={name}={value}" for name, value in self.environment.items()),
            IMAGE, "python3", "/soak/inside.py", action, self.kind,
        )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL, and the same container again."""
        self.engine.attempt("kill", "--signal", "KILL", self.container)
        self.up()

    def up(self, *, excused: bool = True) -> None:
        """Start it where it has ended; what it has said of losses is a finding.

        `excused`: that it does not start is none, just after harm.
        """
        self.look()
        started = self.engine.attempt("start", self.container)
        if started.returncode and not excused:
            self.findings.append(f"{self.kind} does not start again: {started.stderr[-500:]}")

    def news(self) -> list[str]:
        """Findings since the last call."""
        self.told, before = len(self.findings), self.told
        return self.findings[before:]

    def running(self) -> bool:
        """Whether the container runs."""
        state = self.engine.attempt("inspect", "-f", "{{.State.Running}}", self.container)
        return state.stdout.strip() == "true"

    def look(self) -> None:
        """Take over what the workload says it lost; one without room may say that it has none."""
        logs = self.engine.attempt("logs", "--since", "10m", self.container).stdout
        for line in logs.splitlines():
            text = f"{self.kind}: {line}"
            told = line.startswith("LOST") or (line.startswith("BROKEN") and not self.excused)
            if told and text not in self.findings:
                self.findings.append(text)

    def check(self, source: str, what: str) -> None:
        """Have the database itself check a copy: a directory of the host, or a volume."""
        command = self._command(("--rm", f"--volume={source}:/data"), "check")
        try:
            done = self.engine.attempt(*command, seconds_max=CHECK_SECONDS_MAX)
        except subprocess.TimeoutExpired as error:
            self.findings.append(f"{self.kind}, {what}: {error}")
            return
        if done.returncode or "WHOLE" not in done.stdout:
            said = f"{done.stdout[-1000:]}{done.stderr[-1000:]}"
            self.findings.append(f"{self.kind}, {what}: {said}")

    def restored(self, seq: int, to: Path) -> None:
        """Restore a snapshot and check it."""
        named = f"{self.volume}@{seq}"
        try:
            done = self.plugin.cli("restore", named, "--to", str(to), seconds_max=CHECK_SECONDS_MAX)
            if done.returncode:
                self.findings.append(f"restore {named}: {done.stdout}{done.stderr}")
                return
            self.check(str(to), f"snapshot {seq}")
        except subprocess.TimeoutExpired as error:
            self.findings.append(f"restore {named}: {error}")
        finally:
            subprocess.run(["rm", "-rf", "--one-file-system", str(to)], check=True)
