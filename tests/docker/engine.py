"""A private Docker Engine: its own data, sockets and processes, gone after the tests."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support import engine_root, processes
from tests.support.engine_root import OWN, ReleaseRoot

if TYPE_CHECKING:
    from collections.abc import Mapping

REPOSITORY: Final = Path(__file__).parents[2]
BUILD: Final = REPOSITORY / "build"
START_SECONDS_MAX: Final = 60.0
COMMAND_SECONDS_MAX: Final = 120.0
EXEC_ATTEMPTS_MAX: Final = 20
# systemd starts a dockerd that has ended again after this time, and this often.
RESTART_SECONDS: Final = 2.0
STARTS_MAX: Final = 3
# dockerd 28 panics here at its start where it has volumes of a plugin that it cannot enable. It
# cannot enable one whose killed process or shim is still there.
KNOWN_PANIC: Final = "volume/service.(*VolumeStore).restore"


class DockerEngine:
    """A dockerd without networks of its own; containers run with `--network none` or `host`."""

    def __init__(self, release: str | None = None) -> None:
        """`release`: the Debian release whose engine it is, by default the host's."""
        self.root = ReleaseRoot(release)
        # The path of a Unix socket is bounded, hence the short folder for all of them.
        self.run_dir = Path(tempfile.mkdtemp(prefix="dk-engine-", dir="/run"))
        self.data_dir = Path(tempfile.mkdtemp(prefix="dk-engine-", dir="/var/lib"))
        self.host = f"unix://{self.run_dir}/docker.sock"
        self.process: subprocess.Popen[bytes] | None = None
        self._log_file.touch()
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith("DOCKER_")
        } | {"DOCKER_HOST": self.host}

    @property
    def log(self) -> str:
        """Everything that dockerd has logged, with the plugins' lines among it."""
        return self._log_file.read_text(errors="replace")

    @property
    def _log_file(self) -> Path:
        return self.run_dir / "dockerd.log"

    def start(self, *arguments: str) -> None:
        """Starts dockerd, after its known panic again as systemd does; waits until it answers."""
        ended = ""
        for _ in range(STARTS_MAX):
            began = len(self.log)
            self._start(*arguments)
            processes.wait_for(
                lambda: not self.running or self._answers(), "dockerd answers", START_SECONDS_MAX
            )
            if self.running:
                return
            ended = self.log[began:]
            assert KNOWN_PANIC in ended, f"dockerd ended:\n{ended[-4000:]}"
            self._forget_pids()
            time.sleep(RESTART_SECONDS)
        raise AssertionError(f"dockerd ended {STARTS_MAX} times:\n{ended[-4000:]}")

    def _start(self, *arguments: str) -> None:
        command = self.root.command("dockerd", "--data-root", str(self.data_dir))
        command += ["--host", self.host]
        command += ["--exec-root", str(self.run_dir / "exec")]
        command += ["--pidfile", str(self.run_dir / "pid"), "--bridge", "none", "--iptables=false"]
        with open(self._log_file, "ab") as log:
            self.process = subprocess.Popen(
                [*command, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def running(self) -> bool:
        """Whether dockerd was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def _answers(self) -> bool:
        return self.attempt("version").returncode == 0

    def kill(self) -> None:
        """kill -9 of dockerd, and so of its containerd; containers stay as they are."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)
        self._forget_pids()

    def _forget_pids(self) -> None:
        """The pid file of a containerd that nobody has reaped would have the next dockerd wait."""
        pid_file = self.run_dir / "exec" / "containerd" / "containerd.pid"
        containerd = int(pid_file.read_text())
        processes.wait_for(lambda: not processes.alive(containerd), "containerd is gone")
        pid_file.unlink()
        (self.run_dir / "pid").unlink(missing_ok=True)

    def stop(self) -> None:
        """An orderly end, with which containers end too."""
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(30)

    def attempt(
        self, *arguments: str, stdin: str | None = None, seconds_max: float = COMMAND_SECONDS_MAX
    ) -> subprocess.CompletedProcess[str]:
        """`docker ARGUMENTS`, whatever comes of it."""
        return self.run("docker", *arguments, stdin=stdin, seconds_max=seconds_max)

    def run(
        self,
        *command: str,
        stdin: str | None = None,
        seconds_max: float = COMMAND_SECONDS_MAX,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """A command that finds this engine by its environment, whatever comes of it."""
        return subprocess.run(
            self.root.command(*command),
            input=stdin,
            env={**self.environment, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=seconds_max,
            check=False,
        )

    def docker(
        self, *arguments: str, stdin: str | None = None, seconds_max: float = COMMAND_SECONDS_MAX
    ) -> str:
        """Output of `docker ARGUMENTS`, which must succeed; what met a freeze is repeated."""
        done = self.attempt(*arguments, stdin=stdin, seconds_max=seconds_max)
        for _ in range(EXEC_ATTEMPTS_MAX):
            if done.returncode == 0 or "in a paused container" not in done.stdout + done.stderr:
                break
            done = self.attempt(*arguments, stdin=stdin, seconds_max=seconds_max)
        told = f"docker {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
        assert done.returncode == 0, f"{told}\n{self.log[-2000:]}"
        return done.stdout.strip()

    def start_container(self, image: str, volume: str, *command: str, options: str = "") -> str:
        """ID of a running container with `volume` at /data."""
        run = ["run", "--detach", "--network", "none", "--volume", f"{volume}:/data"]
        return self.docker(*run, *options.split(), image, *command)

    def shell(self, image: str, volume: str, script: str) -> str:
        """Output of a script in a container of its own with `volume` at /data.

        Of a container that ends within its first millisecond, on a busy machine, Docker 26 loses
        the output now and then ("reading from a closed fifo" in its log), hence the rest.
        """
        run = ["run", "--rm", "--network", "none", "--volume", f"{volume}:/data"]
        return self.docker(*run, image, "sh", "-euc", f"{script}\nsleep 0.1")

    def clean(self) -> None:
        """Ends whatever was started, and takes its folders away."""
        if self.running:
            self._empty()
            self.stop()
        for pid in processes.naming(str(self.run_dir)):
            processes.end(pid, signal.SIGKILL)
        for base in (self.data_dir, self.run_dir):
            processes.unmount_below(base)
            shutil.rmtree(base)
        self.root.close()

    def _empty(self) -> None:
        """Plugins and containers end while there is still an engine to end them."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if containers := self.attempt("ps", "-aq").stdout.split():
                self.attempt("rm", "-f", *containers)
            for plugin in self.attempt("plugin", "ls", "-q").stdout.split():
                self.attempt("plugin", "disable", "-f", plugin)


def import_image(engine: DockerEngine, tag: str, packages: str, release: str = OWN) -> str:
    """Imports a small Debian system with these packages under the tag."""
    engine.docker("import", str(tarball(packages, release)), tag)
    return tag


def tarball(packages: str, release: str = OWN) -> Path:
    """A small Debian system with these packages, as `docker import` takes it; it is kept.

    The packages come from the mirror that this machine's apt uses.
    """
    name = re.sub("[^a-z0-9]+", "-", packages)
    options = ["--variant=minbase", "--dpkgopt=path-exclude=/usr/share/doc/*"]
    target = BUILD / f"test-image-{release}-{name}.tar"
    return engine_root.debian(target, release, *options, f"--include={packages}")
