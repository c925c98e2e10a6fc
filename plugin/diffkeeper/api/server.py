"""The two listeners: a Unix socket with all calls, a read-only TCP port."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from typing import TYPE_CHECKING

from aiohttp import web

from diffkeeper import clock
from diffkeeper.api import integrity, machine, metrics, snapshots, store, trash, volumes
from diffkeeper.api.call import Called
from diffkeeper.api.driver import Driver
from diffkeeper.api.responses import errors_as_json
from diffkeeper.errors import ConflictError, InvalidInputError

if TYPE_CHECKING:
    from diffkeeper.api.checks import CheckedPaths
    from diffkeeper.api.health import Health
    from diffkeeper.service.service import VolumeService

log = logging.getLogger(__name__)
BACKLOG = 512
PROBE_SECONDS_MAX = 2.0
STALE_SECONDS_MAX = 1.0
STALE_POLL_SECONDS = 0.02
DRAIN_SECONDS_MAX = 1.0
# Any local user can reach the port, so its use of descriptors is bounded. A monitor whose
# connection is closed between two requests opens another one.
CONNECTIONS_MAX = 64
IDLE_SECONDS_MAX = 15.0
# The engine keeps connections open, and a call on one that was closed fails.
ENGINE_IDLE_SECONDS_MAX = 3600.0
# Modules that serve the admin API.
SUBJECTS = (machine, volumes, snapshots, trash, integrity, store)


def claim_socket(path: str) -> socket.socket:
    """Bind and listen on `path`, mode 0600, at once, replacing a socket that nobody serves.

    Raises ConflictError while another process listens on it or when something else is there, and
    InvalidInputError when the path can't be a socket's.
    """
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # never accessible to others, not even between bind and chmod
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConflictError(f"another daemon has just taken {path}") from error
        raise InvalidInputError(f"can not listen on {path}: {error}") from error
    finally:
        os.umask(mask)
    return listener


def _clear(path: str) -> None:
    """Remove a dead socket at `path`; raises ConflictError for anything else that is there."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConflictError(f"{path} exists and is not a socket; move it away")
    deadline = clock.monotonic() + STALE_SECONDS_MAX
    while _listens(path):
        # A killed daemon's child has everything inherited open until it calls exec.
        if clock.monotonic() > deadline:
            raise ConflictError(f"another daemon answers on {path}")
        clock.sleep(STALE_POLL_SECONDS)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _listens(path: str) -> bool:
    """Whether a process has the socket at `path` open; raises ConflictError where that cannot be
    found out.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS_MAX)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError as error:
            raise ConflictError(f"{path} is in use: {error}") from error
    return True


class _BoundedSite(web.BaseSite):
    """A TCP port with at most CONNECTIONS_MAX connections: beyond that the oldest is closed."""

    __slots__ = ("_address",)

    def __init__(self, runner: web.AppRunner, address: tuple[str, int]) -> None:
        super().__init__(runner, backlog=BACKLOG)
        self._address = address

    @property
    def name(self) -> str:
        """The URL."""
        return f"http://{self._address[0]}:{self._address[1]}"

    async def start(self) -> None:
        """Listen. Raises OSError when the port is not available."""
        await super().start()
        server = self._runner.server
        if server is None:
            raise RuntimeError("the runner is not set up")
        loop = asyncio.get_running_loop()

        def accept() -> web.RequestHandler:
            # Runs before the new connection counts, and after those that arrived with it do.
            loop.call_soon(_make_room, server)
            return server()

        self._server = await loop.create_server(accept, *self._address, backlog=BACKLOG)


def _make_room(server: web.Server) -> None:
    """Close the oldest connections, to make room for one more."""
    alive = [handler for handler in server.connections if handler.transport is not None]
    for handler in alive[: max(0, len(alive) - CONNECTIONS_MAX + 1)]:
        handler.force_close()


class Server:
    """Serves one volume service; `health` is shown by /healthz, the doctor and metrics."""

    def __init__(self, service: VolumeService, health: Health, paths: CheckedPaths) -> None:
        self._service = service
        self._health = health
        self._paths = paths
        self._runners: list[web.AppRunner] = []
        self._sites: list[web.BaseSite] = []
        self._path = ""
        self._inode = 0

    def application(self) -> web.Application:
        """What the socket answers: the VolumeDriver protocol and the admin API."""
        app = web.Application(middlewares=[errors_as_json])
        app.add_routes(Driver(self._service).routes())
        about = Called(self._service, self._health, self._paths)
        for subject in SUBJECTS:
            app.add_routes(subject.calls.routes(about))
        return app

    async def serve_socket(self, listener: socket.socket) -> None:
        """Answer on a socket from `claim_socket`."""
        app = self.application()
        self._path = listener.getsockname()
        self._inode = os.stat(self._path).st_ino
        runner = await self._runner(app, ENGINE_IDLE_SECONDS_MAX)
        await self._site(web.SockSite(runner, listener, backlog=BACKLOG))

    async def serve_tcp(self, address: tuple[str, int]) -> None:
        """Answer /metrics and /healthz on TCP. A port that is not available is a trouble, not a
        failure: volumes matter more than their metrics.
        """
        app = web.Application(middlewares=[errors_as_json])
        page = web.get("/metrics", self._metrics)
        app.add_routes([page, web.get("/healthz", self._healthz)])
        runner = await self._runner(app, IDLE_SECONDS_MAX)
        try:
            await self._site(_BoundedSite(runner, address))
        except OSError as error:
            where = f"{address[0]}:{address[1]}"
            self._health.listener_trouble = f"metrics are not served on {where}: {error.strerror}"
            log.warning("metrics_listener_failed", extra={"listen": where, "error": str(error)})
            return
        host, port = runner.addresses[0][:2]
        self._health.listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def stop_listening(self) -> None:
        """Accept nothing new, and remove the socket's name if it is still ours."""
        for site in self._sites:
            await site.stop()
        self._sites.clear()
        with contextlib.suppress(FileNotFoundError):
            if self._path and os.lstat(self._path).st_ino == self._inode:
                os.unlink(self._path)

    async def close(self) -> None:
        """Wait a moment for running requests, then close every connection."""
        for runner in self._runners:
            await runner.cleanup()

    async def _runner(self, app: web.Application, idle_max: float) -> web.AppRunner:
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=DRAIN_SECONDS_MAX,
            keepalive_timeout=idle_max,
        )
        await runner.setup()
        self._runners.append(runner)
        return runner

    async def _site(self, site: web.BaseSite) -> None:
        await site.start()
        self._sites.append(site)

    async def _metrics(self, _request: web.Request) -> web.Response:
        body = metrics.render(self._service, self._health)
        return web.Response(body=body, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _healthz(self, _request: web.Request) -> web.Response:
        troubles = self._health.troubles()
        return web.Response(
            text="\n".join(troubles or ["ok"]) + "\n", status=503 if troubles else 200
        )
