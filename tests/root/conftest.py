"""What several of these tests need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from diffkeeper.freeze.freezer import Freezer
from tests.support.capture_rig import CGROUP_ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def freezer(tmp_path: Path) -> Iterator[Freezer]:
    """One that nothing was left frozen for."""
    made = Freezer(CGROUP_ROOT, str(tmp_path / "journal"))
    assert made.start() == []
    yield made
    made.stop()
