"""Cleans up after a killed repair, before a capture reads the volume. Blocks."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from diffkeeper.errors import DiffKeeperError
from diffkeeper.fsio import durable
from diffkeeper.integrity import bit_rot as damages
from diffkeeper.integrity.repair import Repair, pending
from diffkeeper.volumes.lifecycle import Event

if TYPE_CHECKING:
    from diffkeeper.snapshot.volume_state import VolumeState
    from diffkeeper.store.store import Store
    from diffkeeper.volumes.layout import VolumePaths
    from diffkeeper.volumes.troubles import Troubles
    from diffkeeper.volumes.volume_life import VolumeLife

log = logging.getLogger(__name__)
_PATHS_SHOWN_MAX = 10


def finish_interrupted(
    store: Store, state: VolumeState, paths: VolumePaths, life: VolumeLife, troubles: Troubles
) -> bool:
    """Finish what a killed repair left, if anything, and return whether that could be done;
    otherwise a capture would record its traces as writes.

    Files that cannot be finished are captured as if they had been written, and `troubles` says so.
    """
    finished: list[bytes] = []
    failed: dict[bytes, str] = {}
    try:
        journal = pending(paths.repair)
        if journal is None:
            return False
        life.require(Event.SETTLED)
        live = damages.UnusedDirectory(store, state.record.id, paths.live, journal.root)
        with contextlib.closing(live):
            mender = Repair(store, state, live, paths.repair)
            finished, failed = mender.finish(journal)
    except (DiffKeeperError, OSError, ValueError) as error:
        # An error here must not keep containers from starting, and a second try would come after
        # their writes.
        _report_failure(state, troubles, str(error))
        durable.remove_file(paths.repair)
        return False
    if failed:
        _report_failure(
            state, troubles, "; ".join(f"{damages.shown(path)}: {failed[path]}" for path in failed)
        )
    named = ", ".join(map(damages.shown, finished[:_PATHS_SHOWN_MAX]))
    log.warning("repair_interrupted", extra={"volume": state.record.name, "files": named})
    return True


def _report_failure(state: VolumeState, troubles: Troubles, why: str) -> None:
    troubles.begin(
        "repair", f"a repair was interrupted, and what it changed is captured as written: {why}"
    )
    log.error("repair_failed", extra={"volume": state.record.name, "error": why})
