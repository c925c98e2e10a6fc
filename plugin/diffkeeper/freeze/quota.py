"""CPU quotas: a cgroup that has used up its quota runs, and so freezes, only in its next period.

Until then the others are frozen and wait. So a freeze begins when a period does: for one cgroup its
own, in which all its tasks can run; for several, that of the one after which the others' periods
begin soonest.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffkeeper import clock, limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

QUOTA_LOOK_SECONDS = 0.000_5
QUOTA_EARLY_SECONDS = 0.003  # tolerance around the moment at which a period is expected to begin
QUOTA_BEAT_SECONDS = 10.0  # for which the phase of periods is remembered
QUOTA_WAIT_SECONDS_MAX = 0.3  # for the begin of a period: most last 0.1 s

_STAT_BYTES = 4096
_V1_CONTROLLERS = ("cpu", "cpu,cpuacct")


@dataclass(slots=True)
class _Quota:
    """A cgroup with a quota. periods, throttled: number of periods, and of those in which the quota
    was used up; ticked: when one was seen to begin (monotonic), from which the others follow; 0 if
    unknown.
    """

    path: str
    period_seconds: float = 0.0
    periods: int = 0
    throttled: int = 0
    ticked: float = 0.0

    def period_began(self) -> bool:
        """Whether another period has begun since the last call."""
        before, numbers = self.periods, _numbers(f"{self.path}/cpu.stat")
        self.periods = numbers.get("nr_periods", 0)
        self.throttled = numbers.get("nr_throttled", 0)
        return self.periods != before

    def next_tick(self, now: float) -> float:
        """When its next period begins, from the last begin that was seen."""
        return now + (self.ticked - now) % self.period_seconds


class Quotas:
    """The quotas of cgroups below `cgroup_root`. Calls for one set of cgroups do not overlap."""

    def __init__(self, cgroup_root: str) -> None:
        self._root = cgroup_root.rstrip("/") or "/"
        self._known: dict[str, _Quota] = {}  # by path, as of the last call

    def await_turn(self, directories: Iterable[str]) -> None:
        """Wait, for a bounded time, for a moment at which all the cgroups may run.

        Returns at once if none of them has used up a quota since the last call.
        """
        short = [quota for quota in self._found(directories) if self._is_short(quota)]
        if not short:
            return
        began = clock.monotonic()
        period = max(quota.period_seconds for quota in short)
        new = [quota for quota in short if not quota.ticked]
        _await(new, began + period)
        ticking = [quota for quota in short if quota.ticked]
        if not ticking or len(new) == len(short) == 1:
            return
        first = ticking[first_turn([quota.ticked for quota in ticking], period)]
        due = first.next_tick(clock.monotonic())
        clock.sleep(max(0.0, due - QUOTA_EARLY_SECONDS - clock.monotonic()))
        # On a busy machine it may have begun meanwhile.
        if not (first.period_began() and clock.monotonic() < due + QUOTA_EARLY_SECONDS):
            _await([first], began + QUOTA_WAIT_SECONDS_MAX)

    def describe(self, directory: str) -> str:
        """Why a cgroup may not run, for a person; empty if no quota limits it."""
        for quota in self._found([directory]):
            quota.period_began()
            if quota.throttled:
                return (
                    f"its CPU quota was used up in {quota.throttled} of {quota.periods} periods of"
                    f" {quota.period_seconds * 1000:.0f} ms: it cannot freeze until the next one"
                )
        return ""

    def _is_short(self, quota: _Quota) -> bool:
        """Whether the quota was used up since the last call, or at all for the first one."""
        quota.period_began()
        before = self._known.get(quota.path, _Quota(quota.path))
        if clock.monotonic() - before.ticked < QUOTA_BEAT_SECONDS:
            quota.ticked = before.ticked
        if len(self._known) >= limits.FREEZE_CGROUPS_MAX:
            self._known.clear()
        self._known[quota.path] = quota
        return quota.throttled > before.throttled

    def _found(self, directories: Iterable[str]) -> list[_Quota]:
        """The cgroups with a quota among these and their ancestors."""
        paths = {path: None for directory in directories for path in self._holding(directory)}
        found = [(path, _period(path)) for path in paths]
        return [_Quota(path, period) for path, period in found if period]

    def _holding(self, directory: str) -> list[str]:
        """Directories of a cgroup and its ancestors that have the CPU controller."""
        base = directory
        if directory.startswith(f"{self._root}/freezer/"):
            below = directory.removeprefix(f"{self._root}/freezer/")
            mounted = [f"{self._root}/{name}" for name in _V1_CONTROLLERS]
            base = next((f"{m}/{below}" for m in mounted if os.path.isdir(f"{m}/{below}")), "")
        paths = []
        while base.startswith(f"{self._root}/"):
            paths.append(base)
            base = os.path.dirname(base)
        return paths


def first_turn(moments: Sequence[float], period: float) -> int:
    """Index of the period to freeze in, of periods that begin at these moments and every `period`.

    From its begin on, the begins of all others follow within the shortest time.
    """
    phases = [moment % period for moment in moments]
    order = sorted(range(len(phases)), key=phases.__getitem__)
    ends = [*order[1:], order[0]]
    waits = [(phases[b] - phases[a]) % period or period for a, b in zip(order, ends, strict=True)]
    # It is the one after the longest gap.
    return ends[waits.index(max(waits))]


def _await(quotas: Sequence[_Quota], deadline: float) -> None:
    """Observe when each one's next period begins, as far as that is before the deadline."""
    left = list(quotas)
    while left and clock.monotonic() < deadline:
        clock.sleep(QUOTA_LOOK_SECONDS)
        for quota in [quota for quota in left if quota.period_began()]:
            quota.ticked = clock.monotonic()
            left.remove(quota)


def _period(path: str) -> float:
    """Seconds of a cgroup's period; 0 if it has no quota."""
    if (quota := _read(f"{path}/cpu.cfs_quota_us")) is not None:
        microseconds = _read(f"{path}/cpu.cfs_period_us") if int(quota) > 0 else None
        return int(microseconds or 0) / 1e6
    fields = (_read(f"{path}/cpu.max") or "max").split()
    return int(fields[1]) / 1e6 if fields[0] != "max" else 0.0


def _numbers(path: str) -> dict[str, int]:
    lines = (_read(path) or "").splitlines()
    return {name: int(value) for name, value in (line.split() for line in lines)}


def _read(path: str) -> str | None:
    """Content of a file of the cgroup file system; None if it does not exist."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(_STAT_BYTES).decode("ascii")
    except OSError:
        return None
