"""Which part of wall-clock time counts for retention and trash. Pure.

Unobserved time does not count at once: what the wall clock gained on the clock of the running
machine, and what went by while the daemon did not run. It counts after the machine has run with it
for a day, so that a person can notice a wrong clock, or look into the trash, before anything is
deleted; and it counts then in any case, so that nothing waits for ever. A clock that is set back
cancels unobserved time again.
"""

from __future__ import annotations

from dataclasses import dataclass

CLOCK_STEP_SECONDS_MAX = 60.0  # that the wall clock may gain in one step and count at once
CLOCK_DRIFT_ONE_IN = 1_000  # of the time that passes, which it may gain besides: twice a fast slew
CLOCK_AWAY_SECONDS_MAX = 3_600.0  # without a daemon, that count at once
CLOCK_WAIT_SECONDS = 86_400.0  # of running, until unobserved time counts

_STEP_NS = round(CLOCK_STEP_SECONDS_MAX * 1e9)
_AWAY_NS = round(CLOCK_AWAY_SECONDS_MAX * 1e9)
_WAIT_NS = round(CLOCK_WAIT_SECONDS * 1e9)


@dataclass(frozen=True, slots=True)
class RetentionTime:
    """The wall clock at one reading, and what of it does not count yet. Nanoseconds.

    wait_ns: of running until `unseen_ns` counts; both are 0 or neither. drift_ns: what the wall
    clock gained in steps too small to be told from an adjustment, or lost if negative.
    """

    wall_ns: int
    unseen_ns: int = 0
    wait_ns: int = 0
    drift_ns: int = 0

    @property
    def counted_ns(self) -> int:
        """The time by which snapshots age, since the epoch."""
        return self.wall_ns - self.unseen_ns

    def comes_ns(self, moment_ns: int) -> int:
        """What the wall clock will show when the retention clock reaches a moment, if nothing
        jumps.
        """
        return min(moment_ns + self.unseen_ns, max(moment_ns, self.wall_ns + self.wait_ns))


def advanced(before: RetentionTime, wall_ns: int, elapsed_ns: int) -> RetentionTime:
    """The next reading, `elapsed_ns` later by a clock that never steps.

    More unobserved time than is waiting begins the wait anew; less joins what waits. So a clock
    that jumps often, such as that of a machine that is paused every night, does not delay ageing
    for ever: every new wait is for at least twice the time.
    """
    wait = max(0, before.wait_ns - elapsed_ns)
    unseen = before.unseen_ns if wait else 0
    gained = before.drift_ns + wall_ns - before.wall_ns - elapsed_ns
    drift = _towards_zero(gained, elapsed_ns // CLOCK_DRIFT_ONE_IN)
    if abs(drift) <= _STEP_NS:
        return RetentionTime(wall_ns, unseen, wait, drift)
    if gained > unseen:
        wait = _WAIT_NS
    unseen = max(0, unseen + gained)
    return RetentionTime(wall_ns, unseen, wait if unseen else 0)


def resumed(before: RetentionTime, wall_ns: int) -> RetentionTime:
    """The first reading of a daemon, after the last one that an earlier daemon stored.

    Short absences, such as restarts, count at once.
    """
    away = wall_ns - before.wall_ns
    return advanced(before, wall_ns, min(max(0, away), _AWAY_NS))


def _towards_zero(value: int, step: int) -> int:
    return max(0, value - step) if value >= 0 else min(0, value + step)
