"""Random damage to copies of a real store, each opened in a process of its own.

Whatever was damaged: a snapshot that is read is what it was, or an error says so. `python -m
tests.support.damage 1000` prints the figures of a long run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from diffkeeper.errors import CorruptionError, DiffKeeperError, NotFoundError
from diffkeeper.integrity.scrub import Scrubber
from diffkeeper.snapshot.chunker import Chunker
from diffkeeper.space.maintenance import Maintenance
from diffkeeper.store.store import Batch, Store
from tests.support import history

VOLUMES = 2
STATES = 8
SECONDS_MAX = 60
PAGE = 4096
Key = tuple[int, int]
Truth = dict[Key, history.Files]


def build(path: Path) -> Truth:
    """A closed store with packs, deltas, garbage and forgotten snapshots; all that it holds."""
    truth: Truth = {}
    store = Store.open(str(path), reserve_bytes=0)
    for volume in range(1, VOLUMES + 1):
        for seq, files in enumerate(history.states(STATES, seed=volume, chunks=60), 1):
            history.commit(store, seq, files, volume=volume)
            truth[volume, seq] = files
            if seq == STATES - 2:
                Maintenance(store).run_all()
    for volume in range(1, VOLUMES + 1):
        history.forget(store, 2, volume=volume)
        del truth[volume, 2]
    store.commit(Batch(index_put={(1, number): os.urandom(110) for number in range(500)}))
    store.close()
    return truth


# Damage


def tree_pages(raw: bytes) -> list[int]:
    """Numbers of the pages that look like ones of a tree, and of the meta pages."""
    found = []
    for number in range(len(raw) // PAGE):
        head = raw[number * PAGE : number * PAGE + 12]
        if int.from_bytes(head[:8], "little") == number and head[10] in (1, 2, 8):
            found.append(number)
    return found


def damage(path: Path, source: random.Random) -> str:
    """Damage the closed store in some way; says how."""
    data = path / "data.mdb"
    raw = bytearray(data.read_bytes())
    end = len(raw) - (1 << 20)  # past it is room that is kept for records
    pages = tree_pages(bytes(raw))
    page = source.choice(pages) if source.random() < 0.6 else source.randrange(end // PAGE)
    start = page * PAGE
    kind = source.choice(KINDS)
    if kind == "bit":
        near = source.random() < 0.3
        at = start + source.randrange(64 if near else PAGE)
        raw[at] ^= 1 << source.randrange(8)
    elif kind == "bits":
        for _ in range(source.randrange(2, 30)):
            raw[source.randrange(end)] ^= 1 << source.randrange(8)
    elif kind == "zeros":
        raw[start : start + PAGE] = bytes(PAGE)
    elif kind == "noise":
        raw[start : start + PAGE] = source.randbytes(PAGE)
    elif kind == "half":  # a torn write
        raw[start + 2048 : start + PAGE] = source.randbytes(2048)
    elif kind == "number":  # one that is larger or smaller than it should be
        at = start + source.randrange(0, PAGE - 8, 2)
        raw[at : at + 8] = source.choice([b"\xff" * 8, bytes(8), source.randbytes(8)])
    elif kind == "swapped":
        other = source.choice(pages) * PAGE
        raw[start : start + PAGE], raw[other : other + PAGE] = (
            raw[other : other + PAGE],
            raw[start : start + PAGE],
        )
    elif kind == "cut":
        del raw[source.randrange(len(raw)) :]
    elif kind == "lost":
        raw.clear()
    elif kind == "lock lost":
        (path / "lock.mdb").unlink()
    elif kind == "lock noise":
        (path / "lock.mdb").write_bytes(source.randbytes(source.randrange(40_000)))
    data.write_bytes(raw)
    if kind == "lost" and source.random() < 0.5:
        data.unlink()
    return kind


KINDS = (
    *("bit",) * 8, *("bits",) * 2, *("zeros",) * 3, *("noise",) * 3, *("half",) * 2,
    *("number",) * 4, *("swapped",) * 2, *("cut",) * 2, "lost", "lock lost", "lock noise",
)  # fmt: skip


# What is left


@dataclass
class StoreOutcome:
    """What became of one damaged store."""

    kind: str
    refused: str = ""  # why it was not opened
    equal: int = 0
    failed: int = 0  # reads that ended in an error
    absent: int = 0  # snapshots that are not listed any more
    after: str = ""  # what was done then, and how it ended
    wrong: list[str] = field(default_factory=list)
    died: str = ""

    @property
    def bad(self) -> bool:
        """Whether a promise was broken."""
        return bool(self.wrong or self.died)


def examine(path: Path, truth: Truth, outcome: StoreOutcome) -> None:
    """Open the store, read all of it, maintain it, store something, and read all again."""
    try:
        store = Store.open(str(path), reserve_bytes=0)
    except CorruptionError as error:
        outcome.refused = str(error)
        return
    except DiffKeeperError as error:
        outcome.refused = type(error).__name__
        return
    _read(store, truth, outcome)
    try:
        outcome.after = "scrub"
        reader = Chunker()
        Scrubber(store, reader, list).run_all()
        reader.close()
        outcome.after = "maintenance"
        Maintenance(store).run_all()
        outcome.after = "commit"
        history.commit(store, 99, {b"new": b"new" * 3000}, volume=9)
        outcome.after = "commit read"
        if history.files_of(store, 99, volume=9) != {b"new": b"new" * 3000}:
            outcome.wrong.append("what was stored since")
        outcome.after = "all"
    except DiffKeeperError as error:
        outcome.after += f": {type(error).__name__}: {error}"
    _read(store, truth, outcome)
    store.close()


def _read(store: Store, truth: Truth, outcome: StoreOutcome) -> None:
    for key, files in truth.items():
        volume, seq = key
        try:
            found = history.files_of(store, seq, volume=volume)
        except NotFoundError:
            outcome.absent += 1
        except CorruptionError:
            outcome.failed += 1
        else:
            outcome.equal += found == files
            if found != files:
                outcome.wrong.append(f"volume {volume} snapshot {seq}")


def run_one(made: Path, truth: Truth, seed: int) -> StoreOutcome:
    """Damage a copy and look at it in a child, which has a minute for it."""
    with tempfile.TemporaryDirectory(dir=made.parent) as directory:
        path = Path(directory) / "store"
        shutil.copytree(made, path)
        outcome = StoreOutcome(damage(path, random.Random(seed)))
        told = Path(directory) / "outcome"
        child = os.fork()
        if child == 0:
            _child(path, truth, outcome, told)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            outcome.died = signal.Signals(os.WTERMSIG(status)).name
        elif status:
            outcome.died = told.read_text()
        else:
            outcome = StoreOutcome(**json.loads(told.read_text()))
    return outcome


def _child(path: Path, truth: Truth, outcome: StoreOutcome, told: Path) -> None:
    signal.alarm(SECONDS_MAX)
    code = 1
    try:
        examine(path, truth, outcome)
        told.write_text(json.dumps(vars(outcome)))
        code = 0
    except BaseException as error:
        told.write_text(f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)


def run(made: Path, truth: Truth, seeds: range) -> list[StoreOutcome]:
    """One damaged copy for each seed; those that broke a promise are printed."""
    outcomes = []
    for seed in seeds:
        outcome = run_one(made, truth, seed)
        outcomes.append(outcome)
        if outcome.bad:
            sys.stdout.write(f"seed {seed}: {outcome}\n")
    return outcomes


def figures(outcomes: list[StoreOutcome]) -> dict[str, object]:
    """What a run came to."""
    return {
        "damaged copies": len(outcomes),
        "refused with an error": sum(bool(o.refused) for o in outcomes),
        "opened, all snapshots whole": sum(
            not o.refused and not o.failed and not o.absent and not o.bad for o in outcomes
        ),
        "opened, errors for some": sum(bool(o.failed or o.absent) for o in outcomes),
        "snapshots read whole": sum(o.equal for o in outcomes),
        "snapshots refused": sum(o.failed for o in outcomes),
        "snapshots absent": sum(o.absent for o in outcomes),
        "wrong": sum(len(o.wrong) for o in outcomes),
        "died": dict(Counter(o.died for o in outcomes if o.died)),
        "kinds": dict(Counter(o.kind for o in outcomes)),
    }


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory) / "store"
        truth = build(made)
        started = time.monotonic()
        outcomes = run(made, truth, range(arguments.seed, arguments.seed + arguments.count))
        found = figures(outcomes)
        found["seconds"] = round(time.monotonic() - started, 1)
        after = Counter(o.after.partition(":")[0] for o in outcomes if not o.refused)
        found["ended after"] = dict(after)
    sys.stdout.write("".join(f"{name}: {value}\n" for name, value in found.items()))
    return int(any(outcome.bad for outcome in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
