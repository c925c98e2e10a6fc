"""The daemon as a legacy plugin on the host, in a mount namespace of its own.

There it may see another boot id than the real one, and can be told to die at a failpoint.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import threading
import uuid
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tests.support import processes
from tests.support.daemon import package_environment, serve_command
from tests.support.docker_volumes import call
from tests.support.namespaces import in_namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

SOCKETS = Path("/run/docker/plugins")
# Nothing but the boot id is hidden from the daemon: what it mounts reaches the host through the
# shared mount directory.
LAUNCH = """
mount --make-private /proc
mount --bind "$1" /proc/sys/kernel/random/boot_id
shift
exec "$@"
"""


class LegacyPlugin:
    """`diffkeeper serve` on a socket where every dockerd of this machine finds it by its name."""

    def __init__(self, shared: Path | None) -> None:
        """`shared`: below it, what is mounted reaches an engine in a namespace of its own."""
        self._shared = shared
        self.base = Path(tempfile.mkdtemp(prefix="dk-legacy-", dir=shared or "/var/lib"))
        self.name = self.base.name
        self.socket = SOCKETS / f"{self.name}.sock"
        self.mount_dir = self.base / "mounts"
        self.state_dir = self.base / "state"
        self._process: subprocess.Popen[bytes] | None = None
        self.deaths = 0
        self._log: IO[bytes] = open(self.base / "log", "ab")  # noqa: SIM115  # closed by `clean`
        self.new_boot()

    def new_boot(self) -> None:
        """What a reboot changes: nothing is mounted, and the kernel has another boot id."""
        processes.unmount_below(self.mount_dir)
        self.mount_dir.mkdir(exist_ok=True)
        own = () if self._shared else ("--make-private", "--make-shared")
        for command in ("--bind", *own):
            paths = [str(self.mount_dir)] * (2 if command == "--bind" else 1)
            subprocess.run(["mount", command, *paths], check=True)
        (self.base / "boot_id").write_text(f"{uuid.uuid4()}\n")

    def start(self, failpoints: str = "") -> None:
        """Starts the daemon and waits until it answers."""
        SOCKETS.mkdir(parents=True, exist_ok=True)
        serve = serve_command(self.socket, self.state_dir, self.mount_dir, "off")
        serve += ["--failpoints", failpoints] if failpoints else []
        boot_id = self.base / "boot_id"
        self._process = subprocess.Popen(
            in_namespace(LAUNCH, boot_id, *serve, propagation="unchanged"),
            env=package_environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        processes.wait_for(self._answers, f"{self.name} answers")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log[-4000:]
        try:
            return call(self.socket, "List", {})[0] == 200
        except OSError:
            return False

    @contextlib.contextmanager
    def supervised(self) -> Iterator[None]:
        """Starts the daemon again whenever it dies, as dockerd does with a managed plugin."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.05):
                if self._process is not None and self._process.poll() is not None:
                    self.deaths += 1
                    self.start()

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()

    @property
    def log(self) -> str:
        """All that the daemons have logged."""
        return (self.base / "log").read_text(errors="replace")

    @property
    def running(self) -> bool:
        """Whether a daemon is there."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """kill -9 of the daemon."""
        assert self._process is not None
        self._process.kill()
        self.wait()

    def wait(self) -> int:
        """Waits until the daemon has ended by itself; returns how."""
        assert self._process is not None
        return self._process.wait(30)

    def clean(self) -> None:
        """Ends the daemon and takes its folders away."""
        if self._process is not None and self.running:
            self._process.terminate()
            self.wait()
        self._log.close()
        self.socket.unlink(missing_ok=True)
        processes.unmount_below(self.base)
        shutil.rmtree(self.base)
