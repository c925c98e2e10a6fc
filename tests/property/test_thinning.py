"""The plan of retention: never too much, never twice different, never sorry."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from diffkeeper.volumes import retention_policy
from diffkeeper.volumes.retention_policy import Moment, Moments, Tiers
from diffkeeper.volumes.retention_tiers import parse_retention

if TYPE_CHECKING:
    from collections.abc import Collection

SECOND = 1_000_000_000
TIERS = [
    parse_retention(text)
    for text in ("10m:all,2h:1m,2d:1h,30d:1d", "5s:all,20s:5s", "10s:2s,40s:4s,2m:20s", "1m:all")
]


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Moment], Tiers, set[int]]:
    """Snapshots at gaps of every size, sometimes after the clock went back, with some kept."""
    gaps = draw(
        st.lists(
            st.one_of(
                st.integers(1, 3 * SECOND),
                st.integers(1, 100_000 * SECOND),
                st.integers(-5 * SECOND, 0),
            ),
            max_size=60,
        )
    )
    moments, time_ns = [], 10**18
    for seq, gap in enumerate(gaps, 1):
        time_ns += gap
        moments.append(Moment(seq, time_ns, draw(st.integers(0, 3)) > 0))
    numbers = [m.seq for m in moments]
    keep = draw(st.sets(st.sampled_from(numbers), max_size=3)) if numbers else set()
    return moments, draw(st.sampled_from(TIERS)), keep


def plan(moments: list[Moment], tiers: Tiers, now_ns: int, keep: Collection[int] = ()) -> list[int]:
    return retention_policy.plan(Moments(moments), tiers, now_ns, keep)


def without(moments: list[Moment], gone: list[int]) -> list[Moment]:
    lost = set(gone)
    return [m for m in moments if m.seq not in lost]


ages = st.integers(-10 * SECOND, 40 * 86_400 * SECOND)


@given(histories(), ages)
def test_what_is_protected_stays(history: tuple[list[Moment], Tiers, set[int]], age: int) -> None:
    moments, tiers, keep = history
    now = 10**18 + age
    gone = set(plan(moments, tiers, now, keep))
    assert not gone & keep
    assert plan(moments, tiers, now, keep) == sorted(gone)
    assert plan(moments, (), now, keep) == []
    if moments:
        assert moments[-1].seq not in gone
        crash = [m.seq for m in moments if m.crash]
        assert not crash or crash[-1] not in gone
        if not tiers[0].step_ns:
            young = {m.seq for m in moments if m.time_ns > now - tiers[0].until_ns}
            assert not young & gone


@given(histories(), ages, ages)
def test_later_plans_never_miss_what_is_gone(
    history: tuple[list[Moment], Tiers, set[int]], first: int, second: int
) -> None:
    """The later plan alone lets go all that the first one did, and after it no more than that."""
    moments, tiers, keep = history
    early, late = sorted((10**18 + first, 10**18 + second))
    gone = plan(moments, tiers, early, keep)
    alone = set(plan(moments, tiers, late, keep))
    assert set(gone) <= alone
    left = without(moments, gone)
    again = plan(left, tiers, late, keep)
    assert set(again) <= alone
    assert plan(left, tiers, early, keep) == []
    assert plan(without(left, again), tiers, late, keep) == []


@given(histories(), ages)
def test_each_slot_keeps_its_newest_crash_snapshot(
    history: tuple[list[Moment], Tiers, set[int]], age: int
) -> None:
    moments, tiers, keep = history
    now = 10**18 + age
    gone = set(plan(moments, tiers, now, keep))
    before = 0
    for tier in tiers:
        if tier.step_ns:
            slots: dict[int, list[Moment]] = {}
            for m in moments:
                slots.setdefault(m.time_ns // tier.step_ns, []).append(m)
            for number, inside in slots.items():
                end = (number + 1) * tier.step_ns
                if before <= now - end < tier.until_ns - 2 * tiers[-1].step_ns:
                    best = max(inside, key=lambda m: (m.crash, m.time_ns, m.seq))
                    coarser = [t for t in tiers if t.step_ns > tier.step_ns]
                    aged = any(
                        now - (best.time_ns // t.step_ns + 1) * t.step_ns >= tier.until_ns
                        for t in coarser
                    )
                    assert aged or best.seq not in gone
        before = tier.until_ns


def test_the_default_on_a_month_of_seconds() -> None:
    """A snapshot every ten seconds for 35 days: what is left is what the documents say."""
    tiers = TIERS[0]
    moments: list[Moment] = []
    day = 86_400
    start = 1_795_341_600 // day * day
    step = 10  # seconds: a snapshot every ten, for 35 days
    for second in range(start, start + 35 * day, step):
        moments.append(Moment(len(moments) + 1, second * SECOND, crash=True))
    now = moments[-1].time_ns
    left = without(moments, plan(moments, tiers, now))
    ages_s = [(now - m.time_ns) / SECOND for m in left]
    assert sum(age < 600 for age in ages_s) == 600 // step
    assert 110 <= sum(600 <= age < 7200 for age in ages_s) <= 121
    # A slot is thinned as a whole: an hour keeps its minutes until its end is two hours old.
    assert 46 <= sum(7200 <= age < 2 * day for age in ages_s) <= 46 + 60
    assert 27 <= sum(age >= 2 * day for age in ages_s) <= 29 + 24
    assert len(left) < 340


def test_the_state_before_a_long_pause_stays_within_reach() -> None:
    """A volume at rest for two months is written again: what it was a moment ago is not old."""
    pause = 60 * 86_400 * SECOND
    moments = [Moment(n, 10**18 + n * SECOND, crash=True) for n in range(1, 100)]
    last = moments[-1]
    moments.append(Moment(100, last.time_ns + pause, crash=True))
    gone = plan(moments, TIERS[0], moments[-1].time_ns + 60 * SECOND)
    assert last.seq not in gone
    assert len(gone) >= 97
    assert last.seq in plan(moments, TIERS[0], moments[-1].time_ns + 31 * 86_400 * SECOND)


def test_fuzzy_ones_go_first() -> None:
    slot = 1_795_341_600 * SECOND  # begins a minute
    moments = [
        Moment(1, slot, crash=True),
        Moment(2, slot + SECOND, crash=False),
        Moment(3, slot + 60 * SECOND, crash=False),
        Moment(4, slot + 61 * SECOND, crash=False),
        Moment(5, slot + 900 * SECOND, crash=True),
    ]
    assert plan(moments, TIERS[0], slot + 900 * SECOND) == [2, 3]


def test_a_very_long_history_takes_few_bytes_a_snapshot() -> None:
    """Held at once, and while a plan is made that keeps them all."""
    count, tiers = 50_000, parse_retention("30d:1s")
    tracemalloc.start()
    try:
        moments = Moments(Moment(n, 10**18 + n * SECOND, crash=True) for n in range(1, count + 1))
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        assert retention_policy.plan(moments, tiers, moments.times_ns[-1] + SECOND) == []
        assert tracemalloc.get_traced_memory()[1] - held < 2 * count
        assert held < 20 * count
        tracemalloc.reset_peak()
        moments.drop({count // 2})
        assert len(moments) == count - 1
        assert tracemalloc.get_traced_memory()[1] < 2 * 20 * count
    finally:
        tracemalloc.stop()
