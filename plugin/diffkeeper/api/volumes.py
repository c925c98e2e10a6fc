"""Calls about volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.api.call import Calls
from diffkeeper.messages import volumes
from diffkeeper.volumes.names import check_name

if TYPE_CHECKING:
    from diffkeeper.api.call import Call
    from diffkeeper.messages.endpoint import NoBody, Octets
    from diffkeeper.messages.volumes import VolumeView

calls = Calls()


@calls.serve(volumes.VOLUMES)
async def list_all(call: Call[NoBody]) -> list[VolumeView]:
    """All volumes with their status."""
    service = await call.ready()
    return [service.view(view.name) for view in service.views()]


@calls.serve(volumes.INSPECT)
async def inspect(call: Call[NoBody]) -> VolumeView:
    """One volume with its status."""
    name = await call.volume()
    return call.service.view(name)


@calls.serve(volumes.SET)
async def set_options(call: Call[volumes.SetRequest]) -> VolumeView:
    """Set options of a volume, None for the default of one."""
    name = await call.volume()
    await call.service.changes.set_options(name, call.body.options)
    return call.service.view(name)


@calls.serve(volumes.RENAME)
async def rename(call: Call[volumes.RenameRequest]) -> VolumeView:
    """Give a volume another name."""
    target = check_name(call.body.name)
    name = await call.volume()
    await call.service.changes.rename(name, target)
    return call.service.view(target)


@calls.serve(volumes.IMPORT)
async def import_volume(call: Call[Octets]) -> volumes.ImportReport:
    """A new volume from the archive in the body."""
    name = await call.volume()
    return await call.service.provision.import_volume(name, call.octets())
