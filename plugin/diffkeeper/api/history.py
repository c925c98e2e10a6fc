"""The admin API's routes for tags, retention and the trash."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.api import wire
from diffkeeper.api.responses import json_response, read_body, route
from diffkeeper.history.references import check_tag
from diffkeeper.messages import endpoints
from diffkeeper.messages.snapshots import Forgotten, Untagged
from diffkeeper.volumes.options import check_name

if TYPE_CHECKING:
    from aiohttp import web

    from diffkeeper.api.contract import Service


class PastAdmin:
    """Handlers of these routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[web.RouteDef]:
        """All routes of this class."""
        return [
            route(endpoints.TAG, self.tag),
            route(endpoints.UNTAG, self.untag),
            route(endpoints.FORGET, self.forget),
            route(endpoints.PRUNE, self.prune),
            route(endpoints.TRASH, self.trash),
            route(endpoints.EMPTY_TRASH, self.empty),
            route(endpoints.PURGE, self.empty),
            route(endpoints.UNDELETE, self.undelete),
        ]

    async def tag(self, request: web.Request) -> web.Response:
        """Tag a snapshot, the newest `crash` one by default; answers 201 and the snapshot."""
        tag, reference = wire.parse_tag(await read_body(request))
        name = await self._named(request)
        return json_response(
            await self._service.past.tag(name, reference, tag), endpoints.TAG.status
        )

    async def untag(self, request: web.Request) -> web.Response:
        """Remove a tag; answers the number of its snapshot."""
        tag = check_tag(request.match_info["tag"])
        name = await self._named(request)
        return json_response(Untagged(tag, await self._service.past.untag(name, tag)))

    async def forget(self, request: web.Request) -> web.Response:
        """Forget snapshots, all of them or none; answers their numbers."""
        references = wire.parse_forget(await read_body(request))
        name = await self._named(request)
        return json_response(Forgotten(await self._service.past.forget(name, references)))

    async def prune(self, request: web.Request) -> web.Response:
        """Forget what retention does not keep, or only list it; answers per volume."""
        volume, dry_run = wire.parse_prune(await read_body(request))
        await self._service.ready()
        found = await self._service.past.prune(volume, dry_run=dry_run)
        return json_response(found)

    async def trash(self, _request: web.Request) -> web.Response:
        """The removed volumes, first removed first."""
        await self._service.ready()
        return json_response(await self._service.past.removed())

    async def empty(self, request: web.Request) -> web.Response:
        """Purge one removed volume, or all; answers what they were."""
        wire.parse_empty(await read_body(request))
        reference = None
        if "name" in request.match_info:
            reference = check_name(request.match_info["name"])
        await self._service.ready()
        return json_response(await self._service.past.empty(reference))

    async def undelete(self, request: web.Request) -> web.Response:
        """Bring a removed volume back; answers the volume."""
        target = wire.parse_undelete(await read_body(request))
        reference = await self._named(request)
        name = await self._service.arrivals.undelete(reference, target)
        return json_response(self._service.view(name))

    async def _named(self, request: web.Request) -> str:
        name = check_name(request.match_info["name"])
        await self._service.ready()
        return name
