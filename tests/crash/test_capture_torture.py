"""Programs change a volume in every way while it is captured; each snapshot must be one instant.

`tests/support/churn` is the program, `tests/support/torture.py` the comparison. `make torture`
runs the same with more snapshots, and for long, over many seeds.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from diffkeeper.sources.ebpf.probe import Sources
from tests.support import torture
from tests.support.torture import Plan, Torture, WrongSource

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SNAPSHOTS = int(os.environ.get("TORTURE_SNAPSHOTS", "5"))
SEED = os.environ.get("TORTURE_SEED", "1")
PROCESSES = int(os.environ.get("TORTURE_PROCESSES", "2"))
THREADS = int(os.environ.get("TORTURE_THREADS", "2"))
ONLY = tuple(filter(None, os.environ.get("TORTURE_KINDS", "").split(",")))
WITHOUT = tuple(filter(None, os.environ.get("TORTURE_WITHOUT", "").split(",")))

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not torture.CGROUPS,
    reason="needs root and a cgroup freezer",
)


@pytest.fixture(scope="module")
def sources() -> Iterator[Sources]:
    """The real programs are compiled once."""
    made = Sources()
    yield made
    made.close()


@pytest.fixture
def fs(request: pytest.FixtureRequest, disk: Path) -> str:
    """Which kind it is."""
    return str(request.node.callspec.params["disk"])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("source", ["ebpf", "inotify", "scan"])
def test_every_snapshot_is_one_instant(
    source: str, fs: str, disk: Path, tmp_path: Path, sources: Sources
) -> None:
    """Entry by entry and byte by byte what was on disk in the freeze."""
    plan = Plan(fs, source, SEED, SNAPSHOTS, PROCESSES, THREADS, ONLY, WITHOUT)
    run = Torture(plan, disk, tmp_path, sources)
    try:
        result = run.run()
    except WrongSource as error:
        pytest.skip(str(error))
    finally:
        run.close()
    print(f"{plan}: {result}")
    assert not result.differences, f"{plan}:\n" + "\n".join(result.differences)
    assert len(result.fuzzy) <= 2 + SNAPSHOTS // 10, f"{plan}: {result.fuzzy}"
    assert result.compared >= SNAPSHOTS, f"{plan}: {result.compared} snapshots compared in time"
