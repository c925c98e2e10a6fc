"""The clock of retention and trash: the wall clock without unobserved time."""

from __future__ import annotations

import contextlib
import logging
import threading
from itertools import islice
from typing import TYPE_CHECKING

from diffkeeper import clock
from diffkeeper.errors import CorruptionError
from diffkeeper.history.retention_time import RetentionTime, advanced, resumed
from diffkeeper.store import tables
from diffkeeper.volumes.units import format_duration

if TYPE_CHECKING:
    from diffkeeper.store.store import Store

log = logging.getLogger(__name__)

CLOCK_SAVE_SECONDS = 600.0  # between two readings that are stored


class RetentionClock:
    """The clock of one store, which stores its latest reading. Any thread may call.

    CorruptionError where the stored reading is malformed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._boottime_ns = clock.boottime_ns()
        wall_ns = clock.now_ns()
        before = _stored(store)
        if before is None:
            before = RetentionTime(min(wall_ns, _newest_ns(store, wall_ns)))
        self._passage = before
        self._saved: RetentionTime | None = None
        self._advance(resumed(before, wall_ns))

    def now_ns(self) -> int:
        """The time that counts, nanoseconds since the epoch; reads the clocks. Does not block."""
        with self._lock:
            boottime_ns = clock.boottime_ns()
            elapsed_ns, self._boottime_ns = boottime_ns - self._boottime_ns, boottime_ns
            self._advance(advanced(self._passage, clock.now_ns(), elapsed_ns))
            return self._passage.counted_ns

    def comes_ns(self, moment_ns: int) -> int:
        """See `RetentionTime.comes_ns`, from the latest reading."""
        return self._passage.comes_ns(moment_ns)

    def _advance(self, now: RetentionTime) -> None:
        before, self._passage = self._passage, now
        fields = {"seconds": _seconds(now.unseen_ns), "counts_in": _seconds(now.wait_ns)}
        if now.unseen_ns > before.unseen_ns:
            log.warning("clock_ahead", extra=fields)
        elif now.unseen_ns < before.unseen_ns:
            fields["before"] = _seconds(before.unseen_ns)
            if now.wall_ns < before.wall_ns:
                log.info("clock_set_back", extra=fields)
            else:
                log.info("clock_counted", extra=fields)

    def save(self) -> None:
        """Read the clocks, and store the reading if the last one is old or differed.

        NoSpaceError: call again later.
        """
        self.now_ns()
        now, saved = self._passage, self._saved
        late = round(CLOCK_SAVE_SECONDS * 1e9)
        if (
            saved is None
            or saved.unseen_ns != now.unseen_ns
            or not 0 <= now.wall_ns - saved.wall_ns < late
        ):
            self._store.numbers.put(
                {
                    tables.META_CLOCK_WALL: max(0, now.wall_ns),
                    tables.META_CLOCK_UNSEEN: now.unseen_ns,
                    tables.META_CLOCK_WAIT: now.wait_ns,
                },
                "clock",
            )
            self._saved = now

    @property
    def unseen_seconds(self) -> float:
        """Seconds that do not count yet."""
        return _seconds(self._passage.unseen_ns)

    def uncounted(self) -> str:
        """What does not count yet, and for how long, for a person; empty when everything counts."""
        now = self._passage
        if not now.unseen_ns:
            return ""
        ahead, wait = (_rough(ns) for ns in (now.unseen_ns, now.wait_ns))
        return (
            f"{ahead} of the clock's time passed unseen: the clock jumped ahead, or the daemon did"
            f" not run; histories and trash age by it in {wait}, unless the clock is set back"
        )


def _stored(store: Store) -> RetentionTime | None:
    wall_ns = store.numbers.get(tables.META_CLOCK_WALL)
    if wall_ns is None:
        return None
    unseen_ns = store.numbers.get(tables.META_CLOCK_UNSEEN) or 0
    wait_ns = store.numbers.get(tables.META_CLOCK_WAIT) or 0
    return (
        RetentionTime(wall_ns, unseen_ns, wait_ns)
        if unseen_ns and wait_ns
        else RetentionTime(wall_ns)
    )


def _newest_ns(store: Store, default_ns: int) -> int:
    """The latest time in the records of a store that has no stored reading."""
    times: list[int] = []
    for record in store.volumes():
        times += [record.created_ns, record.removed_ns or 0]
        # A damaged record has no time; whoever needs the snapshot gets the error.
        with contextlib.suppress(CorruptionError):
            times += [head.time_ns for head in islice(store.snapshots(record.id, reverse=True), 1)]
    return max(times, default=default_ns)


def _seconds(ns: int) -> float:
    return round(ns / 1e9, 3)


def _rough(ns: int) -> str:
    """A duration with no more digits than matter."""
    seconds = ns // 10**9
    unit = next(u for u in (86_400, 3_600, 60, 1) if seconds >= 10 * u or u == 1)
    return format_duration(float(seconds // unit * unit))
