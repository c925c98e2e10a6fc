"""Calls about snapshots, tags and retention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.api.call import Calls
from diffkeeper.api.wire import check_number, parsed_reference
from diffkeeper.history.references import check_tag, parse_reference
from diffkeeper.messages import snapshots
from diffkeeper.volumes.names import check_name
from diffkeeper.volumes.path_arguments import check_path

if TYPE_CHECKING:
    from diffkeeper.api.call import Call
    from diffkeeper.messages.endpoint import NoArguments, NoBody
    from diffkeeper.messages.snapshots import SnapshotView

calls = Calls()


@calls.serve(snapshots.SNAPSHOTS)
async def list_all(call: Call[NoBody]) -> list[SnapshotView]:
    """The snapshots of one volume, oldest first."""
    name = await call.volume()
    return await call.service.history.snapshots(name)


@calls.serve(snapshots.SNAPSHOT)
async def snapshot(call: Call[NoArguments]) -> SnapshotView:
    """Take a snapshot now; it is durable then."""
    name = await call.volume()
    return await call.service.snapshot(name)


@calls.serve(snapshots.RESOLVE)
async def resolve(call: Call[NoBody]) -> SnapshotView:
    """The snapshot that a reference names; the newest `crash` one without a reference."""
    reference = parsed_reference(call.query)
    name = await call.volume()
    return await call.service.history.resolve(name, reference)


@calls.serve(snapshots.GROUP)
async def group(call: Call[NoBody]) -> list[snapshots.GroupMember]:
    """The snapshots of all volumes at the instant of one; without a reference the newest."""
    reference = parsed_reference(call.query)
    name = await call.volume()
    return await call.service.history.group(name, reference)


@calls.serve(snapshots.DIFF)
async def diff(call: Call[snapshots.DiffRequest]) -> snapshots.DiffPage:
    """Paths in which two snapshots differ, one page of them."""
    asked = call.body
    old, new = parsed_reference(asked.old), parsed_reference(asked.new)
    other = None if asked.new_volume is None else check_name(asked.new_volume)
    after = None if asked.after is None else check_path(asked.after)
    name = await call.volume()
    return await call.service.history.diff((name, old), (other or name, new), after)


@calls.serve(snapshots.RECORDS)
async def records(call: Call[NoBody]) -> snapshots.RecordsPage:
    """Stored records of a volume and of its snapshots after a number, one page of them."""
    after = check_number("0" if call.query is None else call.query)
    name = await call.volume()
    return await call.service.history.records(name, after)


@calls.serve(snapshots.TAG)
async def tag(call: Call[snapshots.TagRequest]) -> SnapshotView:
    """Tag a snapshot, the newest `crash` one by default."""
    wanted, reference = check_tag(call.body.tag), parsed_reference(call.body.snapshot)
    name = await call.volume()
    return await call.service.history.tag(name, reference, wanted)


@calls.serve(snapshots.UNTAG)
async def untag(call: Call[NoBody]) -> snapshots.Untagged:
    """Remove a tag."""
    unwanted = check_tag(call.part("tag"))
    name = await call.volume()
    return snapshots.Untagged(unwanted, await call.service.history.untag(name, unwanted))


@calls.serve(snapshots.FORGET)
async def forget(call: Call[snapshots.ForgetRequest]) -> snapshots.Forgotten:
    """Forget snapshots, all of them or none."""
    references = [parse_reference(each) for each in call.body.snapshots]
    name = await call.volume()
    return snapshots.Forgotten(await call.service.history.forget(name, references))


@calls.serve(snapshots.PRUNE)
async def prune(call: Call[snapshots.PruneRequest]) -> list[snapshots.Pruning]:
    """Forget what retention does not keep, or only list it; for one volume or each."""
    name = None if call.body.volume is None else check_name(call.body.volume)
    service = await call.ready()
    return await service.history.prune(name, dry_run=call.body.dry_run)
