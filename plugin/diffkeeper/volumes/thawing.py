"""What a killed daemon left frozen."""

from __future__ import annotations

import logging

from diffkeeper.errors import DiffKeeperError
from diffkeeper.freeze.journal import thaw_journal

log = logging.getLogger(__name__)


def thaw_left(journal: str, cgroup_root: str, troubles: dict[str, str]) -> None:
    """Undo the freeze in which an earlier daemon was killed together with its guard.

    What fails becomes a trouble: the daemon goes on.
    """
    try:
        for path in thaw_journal(journal, cgroup_root):
            log.warning("thawed", extra={"cgroup": path, "reason": "left by a killed daemon"})
    except (DiffKeeperError, OSError) as error:
        troubles["thaw"] = f"what a killed daemon left frozen could not be thawed: {error}"
        log.error("thaw_failed", extra={"error": str(error)})
