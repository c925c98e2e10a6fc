"""kill -9 while damaged objects are healed: no wrong byte is read, and another scrub goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from diffkeeper.errors import CorruptionError, NotFoundError
from diffkeeper.format import pack
from diffkeeper.integrity.scrub import Scrubber
from diffkeeper.snapshot.chunker import Chunker
from diffkeeper.space.maintenance import Maintenance
from diffkeeper.store.store import Store
from tests.support import history, rot
from tests.support.killed import HEALING

if TYPE_CHECKING:
    from pathlib import Path

STATES = 6
CHUNKS = 60
COPIED = 40
# Scrubs the store, and heals a few objects in each transaction; at its end it says so.
RUN = """
import sys
from diffkeeper import failpoint, limits
from diffkeeper.snapshot.chunker import Chunker
from diffkeeper.integrity.scrub import Scrubber
from diffkeeper.store.store import Store

limits.BATCH_BYTES_MAX = 16 << 10
store = Store.open(sys.argv[1], reserve_bytes=0)
failpoint.arm(sys.argv[2])
Scrubber(store, Chunker(), list).run_all()
print("done")
"""
# Objects are healed in several transactions, a pack that nothing needs goes in one.
CASES = [
    *(("objects", f"{name}=kill:{count}") for name in HEALING for count in (1, 2, 3)),
    *(("pack", f"{name}=kill") for name in HEALING),
]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Closed stores: one with damaged objects that have good copies in an older pack, one with a
    pack that cannot be read and that nothing needs.
    """
    path = tmp_path_factory.mktemp("made") / "objects"
    store = Store.open(str(path), reserve_bytes=0)
    for seq, files in enumerate(history.states(STATES, chunks=CHUNKS), 1):
        history.commit(store, seq, files)
    Maintenance(store).run_all()
    digests = sorted(history.reachable(store))[:COPIED]
    builder = pack.Builder(1)
    for digest in digests:
        each = store.objects.identify(digest)
        builder.add(each, store.objects.plain(each))
    store.repack.replace(builder.finish(), None)
    newest = store.repack.packs()[-1]
    store.close()
    other = path.parent / "pack"
    shutil.copytree(path, other)
    rot.spoil(path, digests)
    rot.spoil_header(other, newest)
    store = Store.open(str(path), reserve_bytes=0)
    assert read(store) < STATES, "nothing is damaged"
    store.close()
    return {"objects": path, "pack": other}


def read(store: Store) -> int:
    """How many snapshots are whole; those that are not say so, and none is wrong."""
    whole = 0
    for seq, files in enumerate(history.states(STATES, chunks=CHUNKS), 1):
        try:
            assert history.files_of(store, seq) == files
        except (CorruptionError, NotFoundError):
            continue
        whole += 1
    return whole


def killed(path: Path, point: str) -> int:
    """Exit code of a scrub in a process that is armed so."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", RUN, str(path), point]
    return subprocess.run(command, env=environment, timeout=120, check=False).returncode


@pytest.mark.parametrize(("what", "point"), CASES)
def test_killed_at(damaged: dict[str, Path], tmp_path: Path, what: str, point: str) -> None:
    path = tmp_path / "store"
    shutil.copytree(damaged[what], path)
    store = Store.open(str(path), reserve_bytes=0)
    before, newest = read(store), store.repack.packs()[-1]
    store.close()
    assert killed(path, point) == -signal.SIGKILL, f"{point} was never passed"
    store = Store.open(str(path), reserve_bytes=0)
    reader = Chunker()
    try:
        assert read(store) >= before, "a snapshot that was whole is not"
        report = Scrubber(store, reader, list).run_all()
        assert (report.lost, report.lost_objects) == ([], 0)
        assert report.healed_objects == report.damaged_objects
        assert read(store) == STATES
        assert what == "objects" or newest not in store.repack.packs(), "it is kept for ever"
        assert Scrubber(store, reader, list).run_all().damaged_objects == 0
        Maintenance(store).run_all()
        assert read(store) == STATES
    finally:
        reader.close()
        store.close()
