"""What is logged of a volume's snapshots: unusual ones at once, ordinary ones once an hour."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from diffkeeper import clock

if TYPE_CHECKING:
    from diffkeeper.format.records import SnapshotRecord

log = logging.getLogger(__name__)

SUMMARY_SECONDS = 3600.0  # between two summaries of a volume in the log
# Between two summaries. A volume whose snapshots are fuzzy now and then changes for ever.
CHANGES_MAX = 20


class Summary:
    """Log summary of one volume, from its mount on. One thread at a time."""

    def __init__(self) -> None:
        self._consistency = ""  # of the last snapshot that was logged
        self._begin(clock.monotonic())

    def _begin(self, now: float) -> None:
        self._since = now
        self._taken = self._fuzzy = self._new_bytes = self._changes = 0
        self._freeze_ms = 0.0

    def log_snapshot(self, volume: str, snapshot: SnapshotRecord) -> None:
        """Log a snapshot if it is unusual, and the summary of an hour that is over.

        Snapshots of the interval are logged at level debug, except the first one and those whose
        consistency differs from the one before, up to CHANGES_MAX between two summaries.
        """
        changed = snapshot.consistency != self._consistency
        self._consistency = snapshot.consistency
        self._changes += changed
        logged = snapshot.reason != "interval" or (changed and self._changes <= CHANGES_MAX)
        fields = {
            "volume": volume,
            "seq": snapshot.seq,
            "consistency": snapshot.consistency,
            "reason": snapshot.reason,
            "files": snapshot.files,
            "new_bytes": snapshot.new_bytes,
            "freeze_ms": snapshot.freeze_ms,
            "capture_ms": snapshot.capture_ms,
            **({"group": snapshot.group_id} if snapshot.group else {}),
            **({"cause": snapshot.cause} if snapshot.cause else {}),
        }
        if logged:
            log.info("snapshot", extra=fields)
        else:
            log.debug("snapshot", extra=fields)
        self._count(volume, snapshot)

    def _count(self, volume: str, snapshot: SnapshotRecord) -> None:
        self._taken += 1
        self._fuzzy += snapshot.consistency == "fuzzy"
        self._new_bytes += snapshot.new_bytes
        self._freeze_ms = max(self._freeze_ms, snapshot.freeze_ms)
        now = clock.monotonic()
        if now - self._since < SUMMARY_SECONDS:
            return
        fields = {
            "volume": volume,
            "taken": self._taken,
            "fuzzy": self._fuzzy,
            "new_bytes": self._new_bytes,
            "freeze_ms_max": self._freeze_ms,
            "seconds": round(now - self._since),
        }
        log.info("snapshots", extra=fields)
        self._begin(now)
