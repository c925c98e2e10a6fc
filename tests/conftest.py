"""Profiles of the property tests, chosen by HYPOTHESIS_PROFILE: `ci` (default) or `long`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

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
)
settings.register_profile(
    "long", max_examples=3000, deadline=None, print_blob=True, suppress_health_check=_SLOW
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_report_header() -> str:
    """Which profile is in use."""
    return f"hypothesis profile: {os.environ.get('HYPOTHESIS_PROFILE', 'ci')}"
