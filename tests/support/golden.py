"""The stores that older releases made, with what they held."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from diffkeeper.replay.object_source import StoreObjects
from diffkeeper.replay.replay import restore
from tests.support.trees import describe

if TYPE_CHECKING:
    from diffkeeper.store.store import Store

GOLDEN = Path(__file__).parents[1] / "golden"
FORMAT_2 = "format2"


def unpack(name: str, place: Path) -> None:
    """The store, in the new directory `place`."""
    place.mkdir()
    with tarfile.open(GOLDEN / f"{name}.tar.xz") as archive:
        archive.extract("data.mdb", place, filter="data")


def check(name: str, store: Store, base: Path, turn: str) -> None:
    """Its only volume has all its snapshots, each whole; they are restored below `base`."""
    truth = json.loads((GOLDEN / f"{name}.json").read_text())
    (volume,) = store.volumes()
    for snapshot in store.snapshots(volume.id):
        target = base / f"{turn}-{snapshot.seq}"
        target.mkdir()
        restore(snapshot.root, StoreObjects(store), str(target))
        found = describe(target).items()
        told = sorted([path.decode("latin-1"), str(what[-1])] for path, what in found)
        assert told == truth[str(snapshot.seq)], f"{snapshot.seq}, {turn}"
    assert len(truth) == store.snapshot_count(volume.id)
