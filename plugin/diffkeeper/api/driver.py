"""dockerd's VolumeDriver protocol over the volume service."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NoReturn

from aiohttp import web

from diffkeeper import clock, limits
from diffkeeper.api import wire
from diffkeeper.api.responses import json_response, read_body
from diffkeeper.errors import BusyError, DiffKeeperError, InvalidInputError, NotFoundError
from diffkeeper.messages import driver

if TYPE_CHECKING:
    from msgspec import Struct

    from diffkeeper.service.service import VolumeService

log = logging.getLogger(__name__)

MOUNT_SECONDS_SHORT = 25.0  # once the engine was seen to give up early
MOUNT_GIVEN_UP_SECONDS = 28.0  # an engine that closes a connection sooner did so for another reason
MOUNT_LOOK_SECONDS = 1.0  # between two checks whether the engine still waits
# The service bounds a replay; this bounds all of a Mount, below dockerd's timeout.
MARGIN_SECONDS = 2.0
CONTENT_TYPE = "application/vnd.docker.plugins.v1.2+json"


class Driver:
    """Handlers of the eight VolumeDriver calls and Plugin.Activate."""

    def __init__(self, service: VolumeService) -> None:
        self._service = service
        self._undoing: set[asyncio.Task[None]] = set()
        self._patience = limits.MOUNT_SECONDS_MAX

    def routes(self) -> list[web.RouteDef]:
        """One POST route for each call; any other path below `/` is an unknown call."""
        return [web.post(f"/{call}", self.handle) for call in wire.CALLS]

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one call; errors are raised, and converted by the middleware."""
        call, body = request.path.removeprefix("/"), await read_body(request)
        if call == "VolumeDriver.Get" and not body.strip():
            # dockerd's client sends its request again after a connection was dropped, without the
            # body: an error in answer to that would make it forget the volume.
            log.warning("get_without_body")
            _drop(request)
        message = wire.parse_call(call, body)
        answer: Struct
        match message:
            case driver.ActivateRequest():
                answer = driver.ActivateAnswer()
            case driver.CapabilitiesRequest():
                answer = driver.CapabilitiesAnswer()
            case driver.MountRequest():
                answer = driver.MountpointAnswer(await self._mount(request, message))
            case driver.GetRequest():
                answer = await self._get(request, message)
            case _:
                await self._service.ready()
                answer = await self._call(message)
        response = json_response(answer)
        response.content_type = CONTENT_TYPE
        return response

    async def _call(self, message: driver.Request) -> Struct:
        service = self._service
        match message:
            case driver.CreateRequest(name, options):
                await service.provision.create(name, options or {})
            case driver.RemoveRequest(name):
                await service.remove(name)
            case driver.UnmountRequest(name, mount_id):
                await service.unmount(name, mount_id)
            case driver.PathRequest(name):
                return driver.MountpointAnswer(service.mountpoint(name))
            case driver.ListRequest():
                views = service.views()
                volumes = [wire.volume_message(view, status=False) for view in views]
                return driver.VolumesAnswer(volumes)
        return driver.DoneAnswer()

    async def _get(self, request: web.Request, message: driver.GetRequest) -> Struct:
        """One volume. An error makes dockerd forget the volume, so only one that does not exist is
        an error; after any other problem the connection is dropped, which dockerd retries.
        """
        try:
            await self._service.ready()
            view = self._service.view(message.name)
        except (NotFoundError, InvalidInputError):
            raise
        except Exception:
            log.exception("get_failed", extra={"volume": message.name})
            _drop(request)
        return driver.VolumeAnswer(wire.volume_message(view, status=True))

    async def _mount(self, request: web.Request, message: driver.MountRequest) -> str:
        """Mount within dockerd's timeout. A mount whose answer nobody waits for is undone, since
        dockerd never sends the Unmount of a Mount that failed.
        """
        patience = self._patience
        mounting = asyncio.ensure_future(self._mount_when_ready(message, patience))
        seconds = await self._awaited(request, mounting, patience + MARGIN_SECONDS)
        if not mounting.done():
            self._undo(mounting, message)
            raise BusyError(
                f"volume {message.name} is not mounted after {seconds:.0f} s; what delays it goes"
                " on, start the container again"
            )
        mountpoint = mounting.result()
        if _left(request):
            self._undo(mounting, message)
        return mountpoint

    async def _awaited(
        self, request: web.Request, mounting: asyncio.Future[str], seconds_max: float
    ) -> float:
        """Wait for a mount for as long as dockerd does; returns the seconds it took.

        How long dockerd waits depends on how the plugin was enabled, which it does not tell: once
        it has given up, later mounts are answered sooner, with an error that it shows.
        """
        began = clock.monotonic()
        while (waited := clock.monotonic() - began) < seconds_max:
            if _left(request):
                if waited >= MOUNT_GIVEN_UP_SECONDS:
                    self._patience = MOUNT_SECONDS_SHORT
                    log.warning("mount_given_up", extra={"seconds": round(waited, 3)})
                break
            left = min(MOUNT_LOOK_SECONDS, seconds_max - waited)
            done, _ = await asyncio.wait({mounting}, timeout=left)
            if done:
                break
        return clock.monotonic() - began

    async def _mount_when_ready(self, message: driver.MountRequest, patience: float) -> str:
        began = clock.monotonic()
        await self._service.ready()
        left = max(0.0, patience - (clock.monotonic() - began))
        return await self._service.mount(message.name, message.mount_id, left)

    def _undo(self, mounting: asyncio.Future[str], message: driver.MountRequest) -> None:
        task = asyncio.create_task(self._give_back(mounting, message))
        self._undoing.add(task)
        task.add_done_callback(self._undoing.discard)

    async def _give_back(self, mounting: asyncio.Future[str], message: driver.MountRequest) -> None:
        fields = {"volume": message.name, "id": message.mount_id}
        try:
            await mounting
            await self._service.unmount(message.name, message.mount_id)
        except DiffKeeperError as error:
            log.warning("late_mount_failed", extra={**fields, "error": str(error)})
        else:
            log.info("late_mount_given_back", extra=fields)


def _left(request: web.Request) -> bool:
    """Whether the client has closed the connection."""
    return request.transport is None or request.transport.is_closing()


def _drop(request: web.Request) -> NoReturn:
    """Close the connection without an answer."""
    if request.transport is not None:
        request.transport.close()
    raise BusyError("the answer is not known")
