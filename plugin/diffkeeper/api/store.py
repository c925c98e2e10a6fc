"""Calls about the store."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from diffkeeper.api.call import Calls
from diffkeeper.messages import store

if TYPE_CHECKING:
    from diffkeeper.api.call import Call
    from diffkeeper.messages.endpoint import NoArguments, NoBody
    from diffkeeper.messages.store import StoreStatistics

FRAME_LENGTH_BYTES = 4
calls = Calls()


@calls.serve(store.STATISTICS)
async def statistics(call: Call[NoBody]) -> StoreStatistics:
    """Totals of the store."""
    service = await call.ready()
    return service.store_care.stats()


@calls.serve(store.COUNT)
async def counted(call: Call[NoArguments]) -> StoreStatistics:
    """The totals, with the usage of each volume counted again."""
    service = await call.ready()
    return await service.store_care.counted()


@calls.serve(store.MAINTAIN)
async def maintain(call: Call[NoArguments]) -> store.MaintenanceReport:
    """Do all maintenance that is due."""
    service = await call.ready()
    return await service.store_care.maintain()


@calls.serve(store.COMPACT)
async def compact(call: Call[NoArguments]) -> store.CompactReport:
    """Give free room in the store's file back."""
    service = await call.ready()
    return await service.store_care.compact()


@calls.serve(store.OBJECTS)
async def objects(call: Call[store.ObjectsRequest]) -> bytes:
    """Objects in an encoding of their own, each after its length (u32 little endian)."""
    wanted = [(kind, bytes.fromhex(digest)) for kind, digest in call.body.objects]
    service = await call.ready()
    found = await service.history.objects(wanted)
    lengths = [len(item).to_bytes(FRAME_LENGTH_BYTES, "little") for item in found]
    return b"".join(itertools.chain.from_iterable(zip(lengths, found, strict=True)))
