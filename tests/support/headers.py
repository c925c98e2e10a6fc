"""The kernel headers that `make setup` gathers."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

HEADERS: Final = Path(__file__).parents[2] / "build" / "headers"


def gathered() -> Path:
    """build/headers; skips where they could not be made."""
    if not Path("/usr/lib/python3/dist-packages/bcc").is_dir():
        pytest.skip("Debian's python3-bpfcc is not installed")
    if not HEADERS.is_dir():
        pytest.skip("apt gave 'make setup' no kernel headers: see build/headers.log")
    return HEADERS
