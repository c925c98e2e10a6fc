"""PostgreSQL in containers of a real Docker Engine, on volumes of any driver."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from diffkeeper.freeze.cgroups import Hierarchy

REPOSITORY = Path(__file__).parents[2]
STANDIN = REPOSITORY / "demo" / "postgres-survive-kill9" / "standin" / "build.sh"
TAG = "diffkeeper-bench-postgres:standin"
PLACE = "/var/lib/postgresql/data"
CLIENTS = 4
START_SECONDS_MAX = 90.0
ATTEMPTS_MAX = 20


def missing() -> str:
    """Why there can be no comparison here, or nothing."""
    try:
        done = _run("version", "--format", "{{.Server.Version}}")
    except FileNotFoundError:
        return "needs docker"
    if done.returncode != 0:
        return "no Docker Engine answers: run it as `make bench`, which starts a private one"
    return ""


def image() -> str:
    """The stand-in for the official image, built from Debian's packages; its tag."""
    command = [str(STANDIN), TAG, str(REPOSITORY / "build")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return TAG


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True)


def docker(*arguments: str) -> str:
    """Output of `docker ARGUMENTS`; an exec that meets a freeze is repeated."""
    told = ""
    for _ in range(ATTEMPTS_MAX):
        done = _run(*arguments)
        if done.returncode == 0:
            return done.stdout.strip()
        told = done.stdout + done.stderr
        if "in a paused container" not in told:
            break
    raise SystemExit(f"docker {' '.join(arguments)}: {told}")


@dataclass
class MeasuredPostgres:
    """A container with PostgreSQL on a volume of `driver`."""

    volume: str
    driver: str
    options: dict[str, str] = field(default_factory=dict)
    container: str = ""
    tps: list[float] = field(default_factory=list)

    def start(self, tag: str, scale: int) -> None:
        """Create the volume, start the server on it, make the tables."""
        chosen = [word for k, v in self.options.items() for word in ("--opt", f"{k}={v}")]
        docker("volume", "create", "--driver", self.driver, *chosen, self.volume)
        run = ["run", "--detach", "--network", "none", "--volume", f"{self.volume}:{PLACE}"]
        run += ["--env", "POSTGRES_HOST_AUTH_METHOD=trust", tag]
        self.container = docker(*run)
        deadline = time.monotonic() + START_SECONDS_MAX
        while _run(*self._exec("psql", "-Atc", "SELECT 1")).returncode != 0:
            if time.monotonic() > deadline:
                raise SystemExit(_run("logs", self.container).stderr[-4000:])
            time.sleep(0.1)
        self.execute("pgbench", "-i", "-q", "-s", str(scale))

    def _exec(self, *command: str) -> list[str]:
        return ["exec", "--user", "postgres", self.container, *command]

    def execute(self, *command: str) -> str:
        """Output of a command inside the container."""
        return docker(*self._exec(*command))

    def load(self, seconds: int) -> None:
        """pgbench for that long, from a checkpoint on; adds its transactions per second."""
        told = self.execute("pgbench", "-n", "-c", str(CLIENTS), "-j", "2", "-T", str(seconds))
        found = re.search(r"tps = ([0-9.]+)", told)
        if found is None:
            raise SystemExit(told)
        self.tps.append(float(found[1]))

    def checkpoint(self) -> None:
        """Both sides begin with nothing to write out."""
        self.execute("psql", "-qc", "CHECKPOINT")

    def cgroup(self) -> Path:
        """The container's own cgroup."""
        pid = docker("inspect", "--format", "{{.State.Pid}}", self.container)
        membership = Path(f"/proc/{pid}/cgroup").read_bytes()
        return Path(Hierarchy("/sys/fs/cgroup").directory(membership)[0])

    def remove(self) -> None:
        """Container and volume."""
        if self.container:
            docker("rm", "--force", self.container)
        if self.volume in docker("volume", "ls", "--quiet").split():
            docker("volume", "rm", self.volume)
