"""Calls about removed volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.api.call import Calls
from diffkeeper.messages import trash
from diffkeeper.volumes.names import check_name

if TYPE_CHECKING:
    from diffkeeper.api.call import Call
    from diffkeeper.messages.endpoint import NoArguments, NoBody
    from diffkeeper.messages.trash import TrashView
    from diffkeeper.messages.volumes import VolumeView

calls = Calls()


@calls.serve(trash.TRASH)
async def list_all(call: Call[NoBody]) -> list[TrashView]:
    """The removed volumes, first removed first."""
    service = await call.ready()
    return await service.history.removed()


@calls.serve(trash.EMPTY_TRASH)
async def empty(call: Call[NoArguments]) -> list[TrashView]:
    """Purge all removed volumes; returns what they were."""
    service = await call.ready()
    return await service.history.empty(None)


@calls.serve(trash.PURGE)
async def purge(call: Call[NoArguments]) -> list[TrashView]:
    """Purge one removed volume; returns what it was."""
    reference = await call.volume()
    return await call.service.history.empty(reference)


@calls.serve(trash.UNDELETE)
async def undelete(call: Call[trash.UndeleteRequest]) -> VolumeView:
    """Bring a removed volume back."""
    target = None if call.body.name is None else check_name(call.body.name)
    reference = await call.volume()
    name = await call.service.provision.undelete(reference, target)
    return call.service.view(name)
