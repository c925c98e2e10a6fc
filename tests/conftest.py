"""What the folders of tests need, disks for tests of captures, profiles of the property tests.

HYPOTHESIS_PROFILE chooses one: `ci` (default) or `long`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.support import disks

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parent
NEED_NOTHING = ("unit", "property")

# Examples start processes and write to disks, so that no deadline fits a busy machine. `ci` tries
# the same examples in every run; `long` looks for new ones and remembers those that failed.
_SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile(
    "ci",
    derandomize=True,
    database=None,
    max_examples=100,
    deadline=None,
    print_blob=True,
    suppress_health_check=_SLOW,
    # To make a failing example smaller takes longer than a test may: `long` does that.
    phases=(Phase.explicit, Phase.generate),
)
settings.register_profile(
    "long", max_examples=3000, deadline=None, print_blob=True, suppress_health_check=_SLOW
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_report_header() -> str:
    """Which profile is in use."""
    return f"hypothesis profile: {os.environ.get('HYPOTHESIS_PROFILE', 'ci')}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of `root` and `ebpf` are skipped for other users. Those of `ebpf` are marked, and those
    of other folders where eBPF is the source that they run with.
    """
    for item in items:
        room = item.path.relative_to(TESTS).parts[0]
        if room in {"root", "ebpf"} and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))
        chosen = getattr(item, "callspec", None)
        if room == "ebpf" or (
            room not in NEED_NOTHING and chosen and "ebpf" in chosen.params.values()
        ):
            item.add_marker("ebpf")


@pytest.fixture(params=disks.KINDS, scope="module")
def disk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A file system of each kind that tells ranges."""
    base = tmp_path_factory.mktemp(request.param)
    with disks.file_system(request.param, base) as mount:
        yield mount
