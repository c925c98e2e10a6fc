"""History yields to live data, on a small disk that both share."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper.limits import MIB
from tests.support import disks
from tests.support.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
NOISE_BYTES = 12 * MIB
DISK_BYTES = 128 * MIB
OPTIONS = {"interval": "200ms", "capture": "inotify", "retention": "1h:all,30d:1d"}


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon whose state has a disk of its own, of the size of a few states of the noise."""
    with disks.file_system("ext4", tmp_path, DISK_BYTES) as disk:
        base = disk / "d"
        base.mkdir()
        made = Daemon(base)
        made.start("--store-max", "48MiB")
        yield made
        made.clean()


def mounted(daemon: Daemon, volume: str) -> Path:
    daemon.ok("Create", Name=volume, Opts=OPTIONS)
    return Path(daemon.ok("Mount", Name=volume, ID="w")["Mountpoint"])


def stats(daemon: Daemon) -> dict[str, float]:
    return dict(daemon.admin("GET", "/v1/stats"))


def test_noise_for_ever_beside_a_database(crowded: Daemon) -> None:
    """One volume is written again and again; no insert in another one fails."""
    noise, quiet = mounted(crowded, "noise"), mounted(crowded, "quiet")
    database = sqlite3.connect(quiet / "db")
    database.execute("create table t (k integer primary key, v blob)")
    source, most = random.Random(1), 0.0
    early, until = 0, time.monotonic() + 120
    number = 0
    while early < 2 and time.monotonic() < until:
        (noise / "file").write_bytes(source.randbytes(NOISE_BYTES))
        for _ in range(20):
            number += 1
            database.execute("insert into t values (?, ?)", (number, source.randbytes(2000)))
            database.execute("delete from t where k < ?", (number - 50,))
            database.commit()
        # At once, instead of within the budget; refused while the history has no room.
        crowded.request("POST", "/v1/volumes/noise/snapshots", b"{}")
        time.sleep(0.2)
        found = stats(crowded)
        most = max(most, found["store_used_bytes"])
        early = crowded.log.count("thinned volume=noise")
    database.close()
    assert early >= 2, crowded.log[-3000:]
    # Tidying up writes before it frees.
    assert most <= 1.1 * stats(crowded)["store_max_bytes"]
    # The other one's verification may be refused: it takes a snapshot first.
    assert crowded.admin("POST", "/v1/volumes/quiet/verify", {})["ok"]
    assert json.loads(crowded.cli("--json", "scrub").stdout)["damaged_objects"] == 0
