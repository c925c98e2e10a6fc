"""The clock that histories age by: no jump counts before its time, and none waits for ever."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from diffkeeper.history.retention_time import (
    CLOCK_AWAY_SECONDS_MAX,
    CLOCK_DRIFT_ONE_IN,
    CLOCK_STEP_SECONDS_MAX,
    CLOCK_WAIT_SECONDS,
    RetentionTime,
    advanced,
    resumed,
)

SECOND = 10**9
HOUR = 3_600 * SECOND
DAY = 24 * HOUR
START = 1_795_341_600 * SECOND
STEP = round(CLOCK_STEP_SECONDS_MAX * SECOND)
AWAY = round(CLOCK_AWAY_SECONDS_MAX * SECOND)
WAIT = round(CLOCK_WAIT_SECONDS * SECOND)


@dataclass(frozen=True)
class Passing:
    """So much passes, and the wall clock is set by so much besides, with or without a daemon."""

    passes: int
    jumps: int
    seen: bool = True


def run(state: RetentionTime, event: Passing) -> RetentionTime:
    wall_ns = state.wall_ns + event.passes + event.jumps
    return advanced(state, wall_ns, event.passes) if event.seen else resumed(state, wall_ns)


jumps = st.one_of(
    st.just(0),
    st.integers(-2 * STEP, 2 * STEP),
    st.integers(-40 * DAY, 40 * DAY),
    st.integers(-20_000 * DAY, 20_000 * DAY),
)
events = st.builds(
    Passing, st.one_of(st.integers(0, 10 * SECOND), st.integers(0, 3 * DAY)), jumps, st.booleans()
)


@given(st.lists(events, max_size=40))
def test_no_jump_counts_before_its_time(history: list[Passing]) -> None:
    """What counts never gains more than what was seen to pass, unless a wait has come to its end;
    that is a whole wait after as much again as waits at the end, or less, came up.
    """
    state, ran, began = RetentionTime(START), 0, 0
    for event in history:
        after = run(state, event)
        assert after.unseen_ns >= 0
        assert (after.unseen_ns == 0) == (after.wait_ns == 0)
        assert abs(after.drift_ns) <= STEP
        allowed = event.passes if event.seen else AWAY
        ran += event.passes if event.seen else min(max(0, event.passes + event.jumps), AWAY)
        fair = allowed + allowed // CLOCK_DRIFT_ONE_IN + 2 * STEP
        if after.counted_ns - state.counted_ns > fair:
            assert state.unseen_ns
            assert ran - began >= WAIT, "it counts too early"
        if after.wait_ns == WAIT:
            began = ran
        state = after


@given(st.lists(events, max_size=20), st.integers(1, 3_600))
def test_all_counts_after_a_wait_without_jumps(history: list[Passing], seconds: int) -> None:
    state = RetentionTime(START)
    for event in history:
        state = run(state, event)
    passed = 0
    while passed < WAIT:
        state = run(state, Passing(seconds * SECOND, 0))
        passed += seconds * SECOND
    assert state.counted_ns == state.wall_ns


@given(st.integers(STEP + 1, 20_000 * DAY), st.integers(0, WAIT - SECOND))
def test_a_jump_that_is_taken_back_never_counted(jump: int, passes: int) -> None:
    state = advanced(RetentionTime(START), START + jump, 0)
    assert state.counted_ns == START
    state = advanced(state, state.wall_ns + passes, passes)
    assert state.counted_ns == START + passes
    state = advanced(state, START + passes, 0)
    assert state == RetentionTime(START + passes)


@given(st.integers(1, STEP), st.integers(0, 10 * SECOND))
def test_small_steps_do_not_add_up(step: int, passes: int) -> None:
    """However the clock creeps ahead, what counts is ahead of what passed by a step at most."""
    state, passed = RetentionTime(START), 0
    for _ in range(300):
        state, passed = run(state, Passing(passes, step)), passed + passes
        assert state.counted_ns <= START + passed + passed // CLOCK_DRIFT_ONE_IN + STEP


@given(st.integers(3 * STEP, 30 * DAY), st.integers(1, WAIT))
def test_a_clock_that_jumps_again_and_again_is_followed(jump: int, passes: int) -> None:
    """As that of a machine that is paused every night: the same jump never waits twice as long."""
    state, waited = RetentionTime(START), 0
    for _ in range(200):
        state = run(state, Passing(passes, jump))
        fresh = state.unseen_ns == jump
        waited = 0 if fresh else waited + passes
        assert fresh == (state.wait_ns == WAIT)
        assert waited < WAIT


def test_a_large_jump_does_not_go_with_a_small_one() -> None:
    state = advanced(RetentionTime(START), START + 2 * STEP, 0)
    state = run(state, Passing(WAIT - SECOND, 3 * STEP))
    assert (state.unseen_ns, state.wait_ns) == (5 * STEP, WAIT)
    state = run(state, Passing(WAIT - SECOND, 4 * STEP))
    assert (state.unseen_ns, state.wait_ns) == (9 * STEP, SECOND)
    assert run(state, Passing(SECOND, 0)).unseen_ns == 0


@given(
    st.lists(events, max_size=10),
    st.builds(Passing, st.integers(0, 6 * HOUR), st.integers(0, 40 * DAY)),
    st.integers(-DAY, 30 * DAY),
)
def test_when_a_moment_comes_is_known_before(
    history: list[Passing], last: Passing, ahead: int
) -> None:
    state = RetentionTime(START)
    for event in [*history, last]:
        state = run(state, event)
    moment = state.counted_ns + ahead
    left = state.comes_ns(moment) - state.wall_ns
    assert (left > 0) == (ahead > 0)
    if ahead > 0:
        assert run(state, Passing(left - 1, 0)).counted_ns < moment
        assert run(state, Passing(left, 0)).counted_ns >= moment


def test_an_oscillator_that_drifts_is_no_jump() -> None:
    state = RetentionTime(START)
    for _ in range(400):
        state = run(state, Passing(HOUR, HOUR // 5_000))
        assert state.unseen_ns == 0
    assert state.counted_ns == START + 400 * (HOUR + HOUR // 5_000)


def test_time_away() -> None:
    """A restart counts at once; weeks count a day later, but for the hour that always counts."""
    assert resumed(RetentionTime(START), START + HOUR) == RetentionTime(START + HOUR)
    state = resumed(RetentionTime(START), START + 21 * DAY)
    assert (state.counted_ns, state.wait_ns) == (START + HOUR, WAIT)
    state = advanced(state, state.wall_ns + DAY - SECOND, DAY - SECOND)
    assert state.counted_ns == START + HOUR + DAY - SECOND
    again = resumed(state, state.wall_ns)
    assert again == state, "a restart does not begin the wait anew"
    assert advanced(again, again.wall_ns + SECOND, SECOND) == RetentionTime(START + 22 * DAY)


def test_the_year_1970() -> None:
    """A dead clock that is set right later makes nothing old: neither before nor meanwhile."""
    state = advanced(RetentionTime(START), 1000, 0)
    assert state.counted_ns == 1000
    state = advanced(state, 1000 + HOUR, HOUR)
    state = advanced(state, START + HOUR, 0)
    assert state.counted_ns == 1000 + HOUR
    state = advanced(state, START + HOUR + DAY, DAY)
    assert state.counted_ns == state.wall_ns
