"""A tree of every shape, with its owners, replayed; then its objects are made again from it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from diffkeeper.format.chunk import zero_digest
from diffkeeper.integrity.salvage import Salvage, SalvageSource
from diffkeeper.integrity.verify import Verifier
from diffkeeper.replay.object_source import StoreObjects
from diffkeeper.replay.replay import restore
from diffkeeper.snapshot.chunker import Chunker
from diffkeeper.store.store import Batch, Store
from tests.support import shapes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from diffkeeper.format.ids import ObjectId
    from diffkeeper.format.records import IndexRecord


@pytest.fixture(scope="module")
def states() -> dict[int, shapes.SnapshotShape]:
    return shapes.several()


@pytest.fixture
def store(tmp_path: Path, states: dict[int, shapes.SnapshotShape]) -> Iterator[Store]:
    with shapes.stored(tmp_path / "store", states) as opened:
        yield opened


@pytest.fixture
def reader() -> Iterator[Chunker]:
    with closing(Chunker()) as made:
        yield made


def test_replay_then_rebuild(
    store: Store, states: dict[int, shapes.SnapshotShape], reader: Chunker, tmp_path: Path
) -> None:
    live = tmp_path / "live"
    live.mkdir()
    signatures: dict[int, IndexRecord] = {}
    restore(states[2].root, StoreObjects(store), str(live), signed=signatures.update)
    verifier = Verifier(store, reader)
    assert verifier.live(str(live), states[2].root).mismatches == []
    store.commit(
        Batch(index_put={(1, inode): record.encode() for inode, record in signatures.items()})
    )
    found: dict[bytes, bytes] = {}
    asked: set[bytes] = set()

    def wanted(digests: set[bytes]) -> set[bytes]:
        asked.update(digests)
        return digests

    def take(each: ObjectId, plain: bytes) -> None:
        found[each.digest] = plain

    rebuild = Salvage(store, reader, SalvageSource(1, str(live), 14), wanted, take)
    for _ in rebuild.everything():
        pass
    # Chunks are cut as the volume has them now: those of another size are not looked for there.
    whole = {d: p for d, p in states[2].chunks.items() if len(p) == 1 << 14 or p.startswith(b"sm")}
    assert whole.items() <= found.items()
    assert not [d for d in asked if d in {zero_digest(n) for n in (1, 8192, 16384)}]
