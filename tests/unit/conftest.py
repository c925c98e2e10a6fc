"""Fixtures of several unit tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from diffkeeper import failpoint
from diffkeeper.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty one; no failpoint is armed after the test."""
    opened = Store.open(str(tmp_path / "store"), reserve_bytes=0)
    yield opened
    opened.close()
    failpoint.disarm()
