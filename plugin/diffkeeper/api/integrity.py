"""Calls of verification, repair and scrub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.api.call import Calls
from diffkeeper.api.wire import parsed_reference
from diffkeeper.messages import integrity
from diffkeeper.volumes.path_arguments import check_path

if TYPE_CHECKING:
    from diffkeeper.api.call import Call
    from diffkeeper.messages.endpoint import NoArguments

calls = Calls()


@calls.serve(integrity.VERIFY)
async def verify(call: Call[integrity.VerifyRequest]) -> integrity.VerifyReport:
    """Verify the store's copy of a snapshot, or the live directory against the newest."""
    reference = parsed_reference(call.body.snapshot)
    name = await call.volume()
    return await call.service.verify(name, reference)


@calls.serve(integrity.REPAIR)
async def repair(call: Call[integrity.RepairRequest]) -> integrity.RepairReport:
    """Repair damaged files, or only list them."""
    given = call.body.paths
    paths = None if given is None else [check_path(path) for path in given]
    name = await call.volume()
    return await call.service.repair(name, paths, dry_run=call.body.dry_run)


@calls.serve(integrity.SCRUB)
async def scrub(call: Call[NoArguments]) -> integrity.ScrubReport:
    """Read every stored object again, heal what is damaged."""
    service = await call.ready()
    return await service.store_care.scrub()
