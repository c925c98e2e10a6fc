"""kill -9 at any point of maintenance leaves every snapshot whole, and the next run goes on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from diffkeeper.engine.maintenance import Maintenance
from diffkeeper.store.store import Store
from tests.support import history

if TYPE_CHECKING:
    from pathlib import Path

STATES = 8
FORGOTTEN = (1, 2, 4)
# Maintains and compacts the store; at its end it says so.
RUN = """
import sys
from diffkeeper import failpoint
from diffkeeper.engine.maintenance import Maintenance
from diffkeeper.store.store import Store

store = Store.open(sys.argv[1], reserve_bytes=0)
failpoint.arm(sys.argv[2])
Maintenance(store).run_all()
store.compact()
print("done")
"""
POINTS = [
    *(f"sweep.{side}_commit=kill:{n}" for side in ("before", "after") for n in (1, 4)),
    *(
        f"{name}.{side}_commit=kill"
        for name in ("replace", "merge", "places")
        for side in ("before", "after")
    ),
    "compact.copied=kill",
    "compact.renamed=kill",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store with all that maintenance has to do."""
    path = tmp_path_factory.mktemp("made") / "store"
    store = Store.open(str(path), reserve_bytes=0)
    for seq, files in enumerate(history.states(STATES), 1):
        history.commit(store, seq, files)
    history.forget(store, *FORGOTTEN)
    store.close()
    return path


def start(path: Path, armed: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(path), armed],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def check(path: Path) -> None:
    """Every snapshot that was not forgotten is whole, before and after another run."""
    kept = {
        seq: files for seq, files in enumerate(history.states(STATES), 1) if seq not in FORGOTTEN
    }
    store = Store.open(str(path), reserve_bytes=0)
    try:
        assert {seq: history.files_of(store, seq) for seq in kept} == kept
        Maintenance(store).run_all()
        assert {seq: history.files_of(store, seq) for seq in kept} == kept
        alive = history.reachable(store)
        assert store.totals()["chunks"] + store.totals()["nodes"] < 1.25 * len(alive)
        store.compact()
        assert sorted(os.listdir(path)) == ["data.mdb", "lock", "lock.mdb"]
    finally:
        store.close()


@pytest.mark.parametrize("armed", POINTS)
def test_kill_at_a_failpoint(made: Path, tmp_path: Path, armed: str) -> None:
    path = tmp_path / "store"
    shutil.copytree(made, path)
    with start(path, armed) as process:
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    check(path)


def test_kill_at_random(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "store"
    shutil.copytree(made, path)
    source = random.Random(7)
    for _ in range(6):
        with start(path, "") as process:
            time.sleep(source.uniform(0.3, 1.0))
            process.kill()
    check(path)
