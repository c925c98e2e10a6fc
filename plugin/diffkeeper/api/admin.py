"""The admin API under `/v1/`: JSON on the same socket as the VolumeDriver protocol."""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import TYPE_CHECKING

from aiohttp import web

import diffkeeper
from diffkeeper.api import checks, wire
from diffkeeper.api.history import PastAdmin
from diffkeeper.api.responses import json_response, pieces, read_body, route
from diffkeeper.messages import endpoints
from diffkeeper.messages.machine import DaemonVersion
from diffkeeper.volumes.options import check_name

if TYPE_CHECKING:
    from diffkeeper.api.contract import Service
    from diffkeeper.api.health import Health

FRAME_LENGTH_BYTES = 4


class Admin:
    """Handlers of the admin API; `places`: directories that the doctor checks."""

    def __init__(self, service: Service, health: Health, places: checks.CheckedPaths) -> None:
        self._service = service
        self._health = health
        self._places = places

    def routes(self) -> list[web.RouteDef]:
        """Every route of the admin API."""
        return [
            route(endpoints.VERSION, self.version),
            route(endpoints.VOLUMES, self.volumes),
            route(endpoints.INSPECT, self.volume),
            route(endpoints.SET, self.set_options),
            route(endpoints.RENAME, self.rename),
            route(endpoints.SNAPSHOTS, self.snapshots),
            route(endpoints.SNAPSHOT, self.snapshot),
            route(endpoints.RESOLVE, self.resolve),
            route(endpoints.GROUP, self.group),
            route(endpoints.VERIFY, self.verify),
            route(endpoints.REPAIR, self.repair),
            route(endpoints.RECORDS, self.records),
            route(endpoints.IMPORT, self.import_volume),
            route(endpoints.OBJECTS, self.objects),
            route(endpoints.STATISTICS, self.stats),
            route(endpoints.COUNT, self.counted),
            route(endpoints.MAINTAIN, self.maintain),
            route(endpoints.COMPACT, self.compact),
            route(endpoints.SCRUB, self.scrub),
            route(endpoints.DOCTOR, self.doctor),
            *PastAdmin(self._service).routes(),
        ]

    async def version(self, _request: web.Request) -> web.Response:
        """Version of the daemon; answers while the state loads, so that callers know that it
        runs.
        """
        health = self._health
        answer = DaemonVersion(diffkeeper.__version__, os.getpid(), health.listen, health.loading)
        return json_response(answer)

    async def volumes(self, _request: web.Request) -> web.Response:
        """All volumes with their status."""
        await self._service.ready()
        views = [self._service.view(view.name) for view in self._service.views()]
        return json_response(views)

    async def volume(self, request: web.Request) -> web.Response:
        """One volume with its status."""
        name = await self._named(request)
        return json_response(self._service.view(name))

    async def set_options(self, request: web.Request) -> web.Response:
        """Set options of a volume, null for the default of one; answers the volume."""
        given = wire.parse_set(await read_body(request))
        name = await self._named(request)
        await self._service.changes.set_options(name, given)
        return json_response(self._service.view(name))

    async def rename(self, request: web.Request) -> web.Response:
        """Give a volume another name; answers the volume."""
        target = wire.parse_rename(await read_body(request))
        name = await self._named(request)
        await self._service.changes.rename(name, target)
        return json_response(self._service.view(target))

    async def snapshots(self, request: web.Request) -> web.Response:
        """The snapshots of one volume, oldest first."""
        name = await self._named(request)
        views = await self._service.past.snapshots(name)
        return json_response(views)

    async def snapshot(self, request: web.Request) -> web.Response:
        """Take a snapshot now; answers 201 when it is durable."""
        wire.parse_empty(await read_body(request))
        name = await self._named(request)
        return json_response(await self._service.snapshot(name), endpoints.SNAPSHOT.status)

    async def resolve(self, request: web.Request) -> web.Response:
        """The snapshot that a reference names; the newest `crash` one without a reference."""
        reference = wire.check_reference(request.query.get("snapshot"))
        name = await self._named(request)
        return json_response(await self._service.past.resolve(name, reference))

    async def group(self, request: web.Request) -> web.Response:
        """The snapshots of all volumes at the instant of one; without a reference the newest."""
        reference = wire.check_reference(request.query.get("snapshot"))
        name = await self._named(request)
        return json_response(await self._service.past.group(name, reference))

    async def records(self, request: web.Request) -> web.Response:
        """Stored records of a volume and of its snapshots after `after`, one page of them."""
        after = wire.check_number(request.query.get("after", "0"))
        name = await self._named(request)
        return json_response(await self._service.past.records(name, after))

    async def import_volume(self, request: web.Request) -> web.Response:
        """A new volume from the archive in the body; answers 201 when it is durable."""
        name = await self._named(request)
        report = await self._service.arrivals.import_volume(name, pieces(request))
        return json_response(report, endpoints.IMPORT.status)

    async def verify(self, request: web.Request) -> web.Response:
        """Verify the store's copy of a snapshot, or the live directory against the newest."""
        reference = wire.parse_verify(await read_body(request))
        name = await self._named(request)
        return json_response(await self._service.verify(name, reference))

    async def repair(self, request: web.Request) -> web.Response:
        """Repair damaged files, or only list them; answers a report."""
        paths, dry_run = wire.parse_repair(await read_body(request))
        name = await self._named(request)
        return json_response(await self._service.repair(name, paths, dry_run=dry_run))

    async def objects(self, request: web.Request) -> web.Response:
        """Objects in an encoding of their own, each after its length (u32 little endian)."""
        wanted = wire.parse_objects(await read_body(request))
        await self._service.ready()
        found = await self._service.past.objects(wanted)
        lengths = [len(item).to_bytes(FRAME_LENGTH_BYTES, "little") for item in found]
        frames = itertools.chain.from_iterable(zip(lengths, found, strict=True))
        return web.Response(body=b"".join(frames), content_type="application/octet-stream")

    async def maintain(self, request: web.Request) -> web.Response:
        """Do all maintenance that is due; answers when it is done, with a report."""
        wire.parse_empty(await read_body(request))
        await self._service.ready()
        return json_response(await self._service.caretaker.maintain())

    async def scrub(self, request: web.Request) -> web.Response:
        """Read every stored object again, heal what is damaged; answers when that is done."""
        wire.parse_empty(await read_body(request))
        await self._service.ready()
        return json_response(await self._service.caretaker.scrub())

    async def compact(self, request: web.Request) -> web.Response:
        """Give free room in the store's file back; answers with its size before and after."""
        wire.parse_empty(await read_body(request))
        await self._service.ready()
        return json_response(await self._service.caretaker.compact())

    async def stats(self, _request: web.Request) -> web.Response:
        """Totals of the store."""
        await self._service.ready()
        return json_response(self._service.caretaker.stats())

    async def counted(self, request: web.Request) -> web.Response:
        """As `stats`, with the usage of each volume counted again."""
        wire.parse_empty(await read_body(request))
        await self._service.ready()
        return json_response(await self._service.caretaker.counted())

    async def doctor(self, _request: web.Request) -> web.Response:
        """Checks as seen from where the daemon runs; answers while the state loads, too."""
        found = await asyncio.to_thread(checks.run, self._places)
        features = await asyncio.to_thread(self._service.features, look=True)
        found += checks.ebpf(features)
        views = [self._service.view(view.name) for view in self._service.views()]
        found += [checks.sources(views), checks.sizes(views)]
        if not self._health.loading:
            found.append(checks.clock(self._service.past.uncounted_time()))
            found.append(checks.pressure(self._service.past.short()))
        found.append(checks.health(self._health.troubles()))
        return json_response(found)

    async def _named(self, request: web.Request) -> str:
        name = check_name(request.match_info["name"])
        await self._service.ready()
        return name
