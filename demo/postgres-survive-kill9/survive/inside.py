"""Running commands inside the server's container."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from survive.command import attempt
from survive.settings import COMMAND_SECONDS_MAX, DemoError

if TYPE_CHECKING:
    from collections.abc import Sequence

# The container runtime takes the instant of a snapshot's freeze for a pause, in which it starts
# nothing: the next try finds the container thawed.
PAUSED = "cannot exec in a paused container"
TRIES = 40
TRY_SECONDS = 0.05


def attempt_inside(
    container: str,
    argv: Sequence[str],
    *,
    text: str | None = None,
    seconds: float = COMMAND_SECONDS_MAX,
) -> tuple[int, str]:
    """Exit code and output of `docker exec`; raises DemoError after `seconds`."""
    given = ["-i"] if text is not None else []
    told = ""
    for _ in range(TRIES):
        code, told = attempt(
            ["docker", "exec", *given, container, *argv], text=text, seconds=seconds
        )
        if code == 0 or PAUSED not in told:
            return code, told
        time.sleep(TRY_SECONDS)
    raise DemoError(f"the container stays paused: {told.strip()}")


def run_inside(container: str, argv: Sequence[str]) -> str:
    """Output of `docker exec`; raises DemoError when it fails."""
    code, told = attempt_inside(container, argv)
    if code != 0:
        raise DemoError(f"{argv[0]} failed inside the container: {told.strip()[-500:]}")
    return told.strip()
