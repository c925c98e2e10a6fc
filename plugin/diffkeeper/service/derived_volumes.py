"""New volumes that begin with a stored state: clones and imports. Blocks on the store."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from diffkeeper import clock
from diffkeeper.errors import ConflictError, InvalidInputError, NotFoundError
from diffkeeper.format.records import SnapshotRecord, VolumeRecord
from diffkeeper.history.references import parse_reference
from diffkeeper.history.snapshots import History
from diffkeeper.store.store import Batch
from diffkeeper.volumes.names import shown
from diffkeeper.volumes.options import OPTIONS
from diffkeeper.volumes.wording import CLONE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from diffkeeper.store.store import Store

INHERITED = ("chunk-size",)  # content is only recognised in chunks of the same size
_NAMES_SHOWN_MAX = 10


def require_same(name: str, recorded: Mapping[str, str], given: Mapping[str, str]) -> None:
    """ConflictError unless the `given` options are those of the existing volume."""
    left_out = {k for k in INHERITED if "from" in given and k not in given}
    present = {k: v for k, v in recorded.items() if k not in left_out}
    differing = sorted(k for k in {*present, *given} if present.get(k) != given.get(k))
    if not differing:
        return
    differences = ", ".join(
        f"{k} is {shown(present[k]) if k in present else 'not given'},"
        f" not {shown(given[k]) if k in given else 'its default'}"
        for k in differing
    )
    wanted = [f"{k}={given.get(k, '')}" for k in differing if not OPTIONS[k].fixed]
    advice = f"; to change that: diffkeeper set {name} {' '.join(wanted)}" if wanted else ""
    raise ConflictError(f"volume {name} exists with other options: {differences}{advice}")


def new(
    store: Store, name: str, options: Mapping[str, str], volumes: Mapping[str, VolumeRecord]
) -> Batch:
    """The batch that creates a volume, with the state that the option `from` names, if any.

    `volumes`: all existing ones by name. NotFoundError, InvalidInputError: there is no such state.
    """
    number = store.next_volume_id()
    record = VolumeRecord(number, name, clock.now_ns(), dict(options))
    batch = Batch(names_put={name: number})
    if "from" in options:
        source, chosen = _source(store, options["from"], volumes)
        batch.snapshots = [_first(chosen, number)]
        inherited = {key: source.options[key] for key in INHERITED if key in source.options}
        record = replace(
            record,
            options={**inherited, **options},
            head=1,
            next_seq=2,
            next_link_id=source.next_link_id,
        )
    batch.volumes = [record]
    return batch


def _first(chosen: SnapshotRecord, number: int) -> SnapshotRecord:
    """The first snapshot of a clone: the same state, with zero costs."""
    return replace(
        chosen, volume_id=number, seq=1, parent=None, time_ns=clock.now_ns(), reason=CLONE,
        new_bytes=0, stored_bytes=0, freeze_ms=0.0, capture_ms=0.0, group={},
    )  # fmt: skip


def _source(
    store: Store, text: str, volumes: Mapping[str, VolumeRecord]
) -> tuple[VolumeRecord, SnapshotRecord]:
    """The volume and the snapshot that `text` names."""
    source_name, _, reference = text.partition("@")
    source = volumes.get(source_name)
    if source is None:
        there = sorted(volumes)
        more = ", …" if len(there) > _NAMES_SHOWN_MAX else ""
        listed = ", ".join(there[:_NAMES_SHOWN_MAX]) + more or "no volumes at all"
        raise NotFoundError(f"option from: no volume {shown(source_name)}; there are: {listed}")
    chosen = _resolve(store, source, reference)
    if store.unknown([chosen.root]):
        raise NotFoundError(f"option from: snapshot {chosen.seq} of {source.name} was forgotten")
    # Read after the snapshot, so no link id in it exceeds those that this record counts.
    return next(r for r in store.volumes() if r.id == source.id), chosen


def _resolve(store: Store, source: VolumeRecord, reference: str) -> SnapshotRecord:
    try:
        return History(store).resolve(source, parse_reference(reference) if reference else None)
    except (NotFoundError, InvalidInputError) as error:
        first = next(store.snapshots(source.id), None)
        last = next(store.snapshots(source.id, reverse=True), None)
        there = f"it has {first.seq} to {last.seq}" if first and last else "it has none"
        text = f"option from: {error}; of the snapshots of {source.name}, {there}"
        raise type(error)(text) from error
