"""A store that an older release made opens for ever, and has what it had."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from diffkeeper.engine.maintenance import Maintenance
from diffkeeper.engine.objects import StoreObjects
from diffkeeper.engine.replay import restore
from diffkeeper.store.store import Store
from tests.support.trees import describe

if TYPE_CHECKING:
    from collections.abc import Mapping

GOLDEN = Path(__file__).parents[1] / "golden"


def told(description: Mapping[bytes, tuple[object, ...]]) -> list[list[str]]:
    """Paths and contents, as the golden file has them."""
    return sorted([path.decode("latin-1"), str(what[-1])] for path, what in description.items())


def test_format_2(tmp_path: Path) -> None:
    """Before and after its objects are carried over."""
    place = tmp_path / "store"
    place.mkdir()
    with tarfile.open(GOLDEN / "format2.tar.xz") as archive:
        archive.extract("data.mdb", place, filter="data")
    truth = json.loads((GOLDEN / "format2.json").read_text())
    store = Store.open(str(place), reserve_bytes=0)
    (volume,) = store.volumes()
    assert volume.options["chunk-size"] == "64KiB", "its chunks are what they were by default"
    for turn in ("as it was", "carried over"):
        for snapshot in store.snapshots(volume.id):
            target = tmp_path / f"{turn}-{snapshot.seq}"
            target.mkdir()
            restore(bytes.fromhex(snapshot.root), StoreObjects(store), str(target))
            assert told(describe(target)) == truth[str(snapshot.seq)], f"{snapshot.seq}, {turn}"
        Maintenance(store).run_all()
    assert len(truth) == len(list(store.snapshots(volume.id)))
    store.close()
