"""Which part of the wall clock's time counts for the age of histories and trash. Pure.

Time that nobody saw pass is not counted at once: what the wall clock gained on the clock of the
running machine, and what went by while the daemon did not run. It counts once the machine has run
for a while with it, so that a person can notice a wrong clock, or look into the trash, before
anything goes; and it counts then in any case, so that nothing waits for ever. A clock that is set
back takes uncounted time away again.
"""

from __future__ import annotations

from dataclasses import dataclass

CLOCK_STEP_SECONDS_MAX = 60.0  # that the wall clock may gain at once
CLOCK_DRIFT_ONE_IN = 1_000  # of the time that passes, which it may gain besides: twice a fast slew
CLOCK_AWAY_SECONDS_MAX = 3_600.0  # without a daemon, that count as if they had been seen
CLOCK_WAIT_SECONDS = 86_400.0  # until unseen time counts

_STEP_NS = round(CLOCK_STEP_SECONDS_MAX * 1e9)
_AWAY_NS = round(CLOCK_AWAY_SECONDS_MAX * 1e9)
_WAIT_NS = round(CLOCK_WAIT_SECONDS * 1e9)


@dataclass(frozen=True, slots=True)
class RetentionTime:
    """The wall clock at one look, and what of it does not count yet. Nanoseconds.

    wait_ns: of running until `unseen_ns` counts; both are 0 or neither. drift_ns: what the wall
    clock gained in steps too small to be told from an adjustment, or lost where it is negative.
    """

    wall_ns: int
    unseen_ns: int = 0
    wait_ns: int = 0
    drift_ns: int = 0

    @property
    def counted_ns(self) -> int:
        """The time by which histories age, since the epoch."""
        return self.wall_ns - self.unseen_ns

    def comes_ns(self, moment_ns: int) -> int:
        """What the wall clock shows when a moment counts, if nothing jumps until then."""
        return min(moment_ns + self.unseen_ns, max(moment_ns, self.wall_ns + self.wait_ns))


def looked(before: RetentionTime, wall_ns: int, elapsed_ns: int) -> RetentionTime:
    """The next look, which the machine took `elapsed_ns` to come to by a clock that never steps.

    More unseen time than there was begins the wait anew; less goes with what waits. So a clock
    that jumps often, such as that of a machine that is paused every night, holds nothing off
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
    """The first look of a daemon, after the last one that an earlier one had stored.

    Short times away, as of a restart, count as if they had been seen.
    """
    away = wall_ns - before.wall_ns
    return looked(before, wall_ns, min(max(0, away), _AWAY_NS))


def _towards_zero(value: int, step: int) -> int:
    return max(0, value - step) if value >= 0 else min(0, value + step)
