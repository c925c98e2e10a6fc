"""The admin API under `/v1/`: JSON on the same socket as the VolumeDriver protocol."""

from __future__ import annotations

import asyncio
import itertools
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from aiohttp import web

import diffkeeper
from diffkeeper.api import checks, wire
from diffkeeper.api.history import PastAdmin
from diffkeeper.api.responses import json_response, pieces, read_body
from diffkeeper.volumes.options import check_name

if TYPE_CHECKING:
    from diffkeeper.api.contract import Service
    from diffkeeper.api.health import Health
    from diffkeeper.volumes.views import Json, VolumeView

FRAME_LENGTH_BYTES = 4


class Admin:
    """Handlers of the admin API; `places`: directories that the doctor checks."""

    def __init__(self, service: Service, health: Health, places: checks.CheckedPaths) -> None:
        self._service = service
        self._health = health
        self._places = places

    def routes(self) -> list[web.RouteDef]:
        """Every route of the admin API."""
        volume = "/v1/volumes/{name}"
        return [
            web.get("/v1/version", self.version, allow_head=False),
            web.get("/v1/volumes", self.volumes, allow_head=False),
            web.get(volume, self.volume, allow_head=False),
            web.post(f"{volume}/options", self.set_options),
            web.post(f"{volume}/rename", self.rename),
            web.get(f"{volume}/snapshots", self.snapshots, allow_head=False),
            web.post(f"{volume}/snapshots", self.snapshot),
            web.get(f"{volume}/resolve", self.resolve, allow_head=False),
            web.get(f"{volume}/group", self.group, allow_head=False),
            web.post(f"{volume}/verify", self.verify),
            web.post(f"{volume}/repair", self.repair),
            web.get(f"{volume}/records", self.records, allow_head=False),
            web.post(f"{volume}/import", self.import_volume),
            web.post("/v1/objects", self.objects),
            web.get("/v1/stats", self.stats, allow_head=False),
            web.post("/v1/maintain", self.maintain),
            web.post("/v1/compact", self.compact),
            web.post("/v1/scrub", self.scrub),
            web.post("/v1/stats", self.counted),
            web.get("/v1/doctor", self.doctor, allow_head=False),
            *PastAdmin(self._service).routes(),
        ]

    async def version(self, _request: web.Request) -> web.Response:
        """Version of the daemon; answers while the state loads, so that callers know that it
        runs.
        """
        return json_response(
            {
                "version": diffkeeper.__version__,
                "pid": os.getpid(),
                "listen": self._health.listen,
                "loading": self._health.loading,
            }
        )

    async def volumes(self, _request: web.Request) -> web.Response:
        """All volumes with their status."""
        await self._service.ready()
        views = [self._service.view(view.name) for view in self._service.views()]
        return json_response([_volume(view) for view in views])

    async def volume(self, request: web.Request) -> web.Response:
        """One volume with its status."""
        name = await self._named(request)
        return json_response(_volume(self._service.view(name)))

    async def set_options(self, request: web.Request) -> web.Response:
        """Set options of a volume, null for the default of one; answers the volume."""
        given = wire.parse_set(await read_body(request))
        name = await self._named(request)
        await self._service.changes.set_options(name, given)
        return json_response(_volume(self._service.view(name)))

    async def rename(self, request: web.Request) -> web.Response:
        """Give a volume another name; answers the volume."""
        target = wire.parse_rename(await read_body(request))
        name = await self._named(request)
        await self._service.changes.rename(name, target)
        return json_response(_volume(self._service.view(target)))

    async def snapshots(self, request: web.Request) -> web.Response:
        """The snapshots of one volume, oldest first."""
        name = await self._named(request)
        views = await self._service.past.snapshots(name)
        return json_response([asdict(view) for view in views])

    async def snapshot(self, request: web.Request) -> web.Response:
        """Take a snapshot now; answers 201 when it is durable."""
        wire.parse_empty(await read_body(request))
        name = await self._named(request)
        return json_response(asdict(await self._service.snapshot(name)), 201)

    async def resolve(self, request: web.Request) -> web.Response:
        """The snapshot that a reference names; the newest `crash` one without a reference."""
        reference = wire.check_reference(request.query.get("snapshot"))
        name = await self._named(request)
        return json_response(asdict(await self._service.past.resolve(name, reference)))

    async def group(self, request: web.Request) -> web.Response:
        """The snapshots of all volumes at the instant of one; without a reference the newest."""
        reference = wire.check_reference(request.query.get("snapshot"))
        name = await self._named(request)
        return json_response(
            [asdict(each) for each in await self._service.past.group(name, reference)]
        )

    async def records(self, request: web.Request) -> web.Response:
        """Stored records of a volume and of its snapshots after `after`, one page of them."""
        after = wire.check_number(request.query.get("after", "0"))
        name = await self._named(request)
        return json_response(await self._service.past.records(name, after))

    async def import_volume(self, request: web.Request) -> web.Response:
        """A new volume from the archive in the body; answers 201 when it is durable."""
        name = await self._named(request)
        return json_response(await self._service.arrivals.import_volume(name, pieces(request)), 201)

    async def verify(self, request: web.Request) -> web.Response:
        """Verify the store's copy of a snapshot, or the live directory against the newest."""
        reference = wire.parse_verify(await read_body(request))
        name = await self._named(request)
        return json_response(asdict(await self._service.verify(name, reference)))

    async def repair(self, request: web.Request) -> web.Response:
        """Repair damaged files, or only list them; answers a report."""
        paths, dry_run = wire.parse_repair(await read_body(request))
        name = await self._named(request)
        return json_response(asdict(await self._service.repair(name, paths, dry_run=dry_run)))

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
        return json_response(dict(await self._service.caretaker.maintain()))

    async def scrub(self, request: web.Request) -> web.Response:
        """Read every stored object again, heal what is damaged; answers when that is done."""
        wire.parse_empty(await read_body(request))
        await self._service.ready()
        return json_response(dict(await self._service.caretaker.scrub()))

    async def compact(self, request: web.Request) -> web.Response:
        """Give free room in the store's file back; answers with its size before and after."""
        wire.parse_empty(await read_body(request))
        await self._service.ready()
        return json_response(dict(await self._service.caretaker.compact()))

    async def stats(self, _request: web.Request) -> web.Response:
        """Totals of the store."""
        await self._service.ready()
        return json_response(dict(self._service.caretaker.stats()))

    async def counted(self, request: web.Request) -> web.Response:
        """As `stats`, with the usage of each volume counted again."""
        wire.parse_empty(await read_body(request))
        await self._service.ready()
        return json_response(dict(await self._service.caretaker.counted()))

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
        return json_response([asdict(check) for check in found])

    async def _named(self, request: web.Request) -> str:
        name = check_name(request.match_info["name"])
        await self._service.ready()
        return name


def _volume(view: VolumeView) -> Json:
    return asdict(view)
