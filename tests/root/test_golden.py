"""A store that an older release made opens for ever, and has what it had."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.space.maintenance import Maintenance
from diffkeeper.store.store import Store
from tests.support import golden

if TYPE_CHECKING:
    from pathlib import Path


def test_format_2(tmp_path: Path) -> None:
    """Before and after its objects are carried over."""
    place = tmp_path / "store"
    golden.unpack(golden.FORMAT_2, place)
    store = Store.open(str(place), reserve_bytes=0)
    (volume,) = store.volumes()
    assert volume.options["chunk-size"] == "64KiB", "its chunks are what they were by default"
    for turn in ("as it was", "carried over"):
        golden.check(golden.FORMAT_2, store, tmp_path, turn)
        Maintenance(store).run_all()
    golden.check(golden.FORMAT_2, store, tmp_path, "and looked at once more")
    store.close()
