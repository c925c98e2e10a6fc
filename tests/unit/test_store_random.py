"""Random histories of few states that come back, while maintenance runs between any two commits.

Every snapshot that is kept stays readable, and a scrub finds nothing. `STORE_SEEDS=300` looks for
more; each seed is a history of its own.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from diffkeeper.integrity.scrub import Scrubber
from diffkeeper.snapshot.chunker import Chunker
from diffkeeper.space.maintenance import Maintenance
from diffkeeper.store import repack
from diffkeeper.store.lru import Lru
from diffkeeper.store.store import Store
from tests.support import history

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOUND = (2, 243)  # each lost an object once
SEEDS = range(1000, 1000 + int(os.environ.get("STORE_SEEDS", "3")))
COMMITS = 120
ALIKE = 4  # versions of a page, a few bytes apart
PAGES = 24


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that maintenance does is due all the time; packs stay until most of them is garbage."""
    for name, value in {
        "COLLECT_SECONDS_MIN": 0.0,
        "DELTA_SECONDS_MAX": 0.0,
        "DELTA_SNAPSHOTS_MAX": 3,
    }.items():
        monkeypatch.setattr(f"diffkeeper.space.maintenance.{name}", value)
    monkeypatch.setattr(repack, "MERGE_OBJECTS", 16)
    monkeypatch.setattr(repack, "PACK_SMALL_BYTES", 0)
    monkeypatch.setattr(repack, "PACK_DEAD_FRACTION_MAX", 0.9)
    monkeypatch.setattr("diffkeeper.store.store.RECENT_OBJECTS_MAX", 64)
    monkeypatch.setattr("diffkeeper.space.deltas.DELTA_ROUNDS_MAX", 4)
    monkeypatch.setattr("diffkeeper.space.deltas.DELTA_LINKS_MAX", 4)


def states(source: random.Random) -> Iterator[history.Files]:
    size = history.CHUNK
    pages = [source.randbytes(size) for _ in range(6)]
    alike = [[p[: i * 7] + bytes([i]) + p[i * 7 + 1 :] for i in range(ALIKE)] for p in pages]
    chosen = [0] * PAGES
    for number in range(COMMITS):
        chosen = [source.randrange(ALIKE) if source.random() < 0.25 else at for at in chosen]
        large = b"".join(alike[at % 6][version] for at, version in enumerate(chosen))
        yield {
            b"large": large[: size * source.choice((8, 16, PAGES))],
            b"small%d" % source.randrange(3): alike[0][chosen[0]],
            b"number": b"%d" % (number % 5),
        }


def whole(store: Store, kept: dict[int, history.Files]) -> bool:
    """Whether all is there, whatever nodes memory has."""
    store.objects._nodes = Lru(0, 0)
    return {seq: history.files_of(store, seq) for seq in kept} == kept


@pytest.mark.parametrize("seed", [*FOUND, *SEEDS])
def test_what_is_kept_is_whole(tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)
    store = Store.open(str(tmp_path / "store"), reserve_bytes=0)
    maintenance, work = Maintenance(store), None
    kept: dict[int, history.Files] = {}
    for seq, files in enumerate(states(source), 1):
        history.commit(store, seq, files)
        kept[seq] = files
        for old in [each for each in kept if each < seq and source.random() < 0.15]:
            history.forget(store, old)
            del kept[old]
        for _ in range(source.randrange(60)):
            work = work or maintenance._due(everything=source.random() < 0.3)
            if next(work, StopIteration) is StopIteration:
                work = None
        assert not maintenance.damage
        assert seq % 10 or whole(store, kept)
    assert not maintenance.run_all().damage
    reader = Chunker()
    assert not Scrubber(store, reader, list).run_all().damaged_objects
    reader.close()
    assert whole(store, kept)
    store.close()
