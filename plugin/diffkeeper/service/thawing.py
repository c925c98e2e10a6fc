"""Thaws what a killed daemon left frozen, and starts the guard."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from diffkeeper.errors import DiffKeeperError, FreezeError
from diffkeeper.freeze.journal import thaw_journal

if TYPE_CHECKING:
    from diffkeeper.freeze.freezer import Freezer

log = logging.getLogger(__name__)


def thaw_left(journal: str, cgroup_root: str, troubles: dict[str, str]) -> None:
    """Undo the freeze in which an earlier daemon was killed together with its guard.

    An error becomes a trouble: the daemon continues.
    """
    try:
        for path in thaw_journal(journal, cgroup_root):
            log.warning("thawed", extra={"cgroup": path, "reason": "left by a killed daemon"})
    except (DiffKeeperError, OSError) as error:
        troubles["thaw"] = f"what a killed daemon left frozen could not be thawed: {error}"
        log.error("thaw_failed", extra={"error": str(error)})


def start(freezer: Freezer, troubles: dict[str, str]) -> None:
    """Start the guard. An error becomes a trouble: the daemon continues without freezes."""
    try:
        freezer.start()
    except FreezeError as error:
        troubles["freezer"] = str(error)
        return
    if not freezer.guard_stays:
        reason = "locked memory is not allowed, which takes CAP_IPC_LOCK or a limit of 16 MB"
        log.warning("guard_may_be_swapped", extra={"reason": reason})
