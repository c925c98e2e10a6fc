"""A planted fault: one hint in so many is lost. The torture must see it; comparison and
verification must mend or name what it did.

One in a hundred is seen within seconds; TORTURE_FAULT_EVERY=1000 takes minutes each. `make torture`
plants all of FAULTS, the suite those that stand for the others: a part of a file, and a name.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from diffkeeper.integrity.verify import Verifier
from diffkeeper.sources.ebpf.probe import Sources
from tests.support import disks, torture
from tests.support.planted import heal, plant
from tests.support.torture import Plan, Torture, WrongSource
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVERY = int(os.environ.get("TORTURE_FAULT_EVERY", "100"))
SEED = os.environ.get("TORTURE_SEED", "1")
SNAPSHOTS_MAX = 2_000
SECONDS_MAX = 240.0
# Of a file that is mapped more is read than what was hinted, and one whose name changes is read
# anew: a lost part shows where nobody does either. The busier the machine, the fewer of them show.
PARTS_ONLY = ("writes", "space", "aio", "uring")
MAPPING = ("write_from_mapping", "unlink_open")
# A scan has one hint only, that everything may have changed: losing one is no loss of a detail.
FAULTS = [
    ("ebpf", "chunk", max(2, EVERY // 10), PARTS_ONLY),
    ("ebpf", "file", EVERY, PARTS_ONLY),
    ("ebpf", "name", EVERY, ()),
    ("inotify", "name", EVERY, ()),
]

CHOSEN = FAULTS if os.environ.get("TORTURE_FAULTS") == "all" else [FAULTS[0], FAULTS[3]]

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0 or not torture.CGROUPS, reason="needs root and a cgroup freezer"
    ),
    pytest.mark.timeout(600),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def sources() -> Iterator[Sources]:
    """The real programs are compiled once."""
    with contextlib.closing(Sources()) as made:
        yield made


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The fault is in the source, so one file system will do."""
    with disks.file_system("ext4", tmp_path_factory.mktemp("ext4")) as mount:
        yield mount


@pytest.mark.parametrize(
    ("source", "level", "every", "only"), CHOSEN, ids=[f"{f[0]}-{f[1]}" for f in CHOSEN]
)
def test_a_lost_hint_is_seen(
    source: str, level: str, every: int, only: tuple[str, ...], disk: Path, tmp_path: Path,
    sources: Sources,
) -> None:  # fmt: skip
    """By the torture while it is busy; at rest nothing of it stays unknown."""
    without = MAPPING if only else ()
    plan = Plan("ext4", source, SEED, SNAPSHOTS_MAX, 2, 2, only, without, seconds_max=SECONDS_MAX)
    run = Torture(plan, disk, tmp_path, sources)
    try:
        with run.busy() as turns:
            run.open()
            forgetful = plant(run.rig, level, every, SEED)
            for _ in turns:
                run.turn()
        lost = f"{len(forgetful.dropped)} of {forgetful.hints} hints lost"
        print(f"{plan}, {level}: {lost}, {run.result}")
        # A difference before any fault is one of the rig's own.
        assert forgetful.dropped, f"{plan}: {lost}\n" + "\n".join(run.result.differences)
        assert run.result.differences, f"{plan}: {lost}, and all {run.result.compared} looked right"
        check_net(run)
    except WrongSource as error:
        pytest.skip(str(error))
    finally:
        run.close()


def check_net(run: Torture) -> None:
    """After the regular comparison the snapshot is what is on disk, or verification names it."""
    rig = run.rig
    heal(rig)
    rig.capture_of("interval", rig.writers())
    head = rig.state.head
    assert head is not None
    replayed, copy = rig.replay(head, "healed"), run.base / "copied"
    subprocess.run(["cp", "-a", str(run.live), str(copy)], check=True)
    differing = {line.partition(": ")[0] for line in difference(describe(copy), describe(replayed))}
    found = Verifier(rig.store, rig.reader).live(str(run.live), head.root)
    named = {repr(b"/" + mismatch.path) for mismatch in found.mismatches}
    print(f"after the comparison: {len(differing)} differ, verification names {len(named)}")
    assert found.complete
    assert differing <= named, f"{run.plan}: nothing tells of {differing - named}"
    assert bool(differing) == bool(named)
