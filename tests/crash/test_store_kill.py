"""kill -9 at any point of a commit leaves the state before it or after it, never half of one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from diffkeeper.hashing import chunk_digest
from diffkeeper.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

# Commits snapshot after snapshot, each with two chunks and its volume's head, and prints the
# sequence number of every commit that returned.
WRITER = """
import sys
from diffkeeper import failpoint
from diffkeeper.format import chunk
from diffkeeper.format.ids import Root
from diffkeeper.format.records import SnapshotRecord, VolumeRecord
from diffkeeper.hashing import chunk_digest
from diffkeeper.store.batch import ObjectMap
from diffkeeper.store.store import Batch, Store

path, armed, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = Store.open(path, reserve_bytes=0, map_bytes=1 << 20)
head = max((s.seq for s in store.snapshots(1)), default=0)
failpoint.arm(armed)
for seq in range(head + 1, last + 1):
    plains = [b"%d-%d" % (seq, i) * 3000 for i in range(2)]
    objects = ObjectMap({chunk_digest(p): chunk.encode(p, None) for p in plains})
    if "objects_flushed" in armed:
        store.commit(Batch(chunks=objects))
    store.commit(
        Batch(
            chunks=objects,
            snapshots=[
                SnapshotRecord(1, seq, None, Root(32), 1, "crash", "x", 1, 1, 1, 1, 0.0, 0.0)
            ],
            volumes=[VolumeRecord(1, "v", 1, head=seq)],
        )
    )
    print(seq, flush=True)
"""


def start(path: str, armed: str, last: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, path, armed, str(last)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def state(path: str) -> int:
    """The head, after checking that everything up to it is whole and nothing is beyond it."""
    store = Store.open(path, reserve_bytes=0)
    try:
        seqs = [s.seq for s in store.snapshots(1)]
        heads = [volume.head for volume in store.volumes()]
        head = seqs[-1] if seqs else 0
        assert seqs == list(range(1, head + 1))
        assert heads == ([head] if head else [])
        for seq in seqs:
            for i in range(2):
                plain = b"%d-%d" % (seq, i) * 3000
                assert store.chunk(chunk_digest(plain)) == plain
        return head
    finally:
        store.close()


@pytest.mark.parametrize(
    ("armed", "acknowledged", "head"),
    [
        ("store.before_commit=kill:3", 2, 2),
        ("store.after_commit=kill:3", 2, 3),
        ("store.objects_flushed=kill:3", 2, 2),
    ],
)
def test_kill_at_a_failpoint(tmp_path: Path, armed: str, acknowledged: int, head: int) -> None:
    path = str(tmp_path / "store")
    with start(path, armed, 10) as writer:
        output, _ = writer.communicate(timeout=60)
    assert writer.returncode == -signal.SIGKILL
    assert output.split() == [str(seq) for seq in range(1, acknowledged + 1)]
    assert state(path) == head
    with start(path, "", head + 2) as writer:
        writer.communicate(timeout=60)
    assert state(path) == head + 2


def test_kill_at_random(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    source = random.Random(5)
    head = 0
    for _ in range(8):
        with start(path, "", 1_000_000) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline()]  # the first commit is through
            time.sleep(source.uniform(0, 0.05))
            writer.kill()
            lines += writer.stdout.readlines()
        acknowledged = int(lines[-1] if lines[-1].endswith("\n") else lines[-2])
        found = state(path)
        assert found - acknowledged in (0, 1)
        assert found > head
        head = found
