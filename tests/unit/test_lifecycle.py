"""The table of a volume's life: every state with every event, and the drawing of it."""

from __future__ import annotations

import ast
import itertools
from dataclasses import fields, replace
from pathlib import Path

import pytest

import diffkeeper
from diffkeeper.errors import ConflictError
from diffkeeper.volumes import lifecycle
from diffkeeper.volumes.lifecycle import TABLE, Event, Facts, State

PACKAGE = Path(diffkeeper.__file__).parent
ARCHITECTURE = Path(__file__).parents[2] / "docs/architecture.md"
PAIRS = list(itertools.product(State, Event))
LISTED = [(s, e) for s, e in PAIRS if e in TABLE[s]]
UNLISTED = [(s, e) for s, e in PAIRS if e not in TABLE[s]]


FACTS = [Facts(*values) for values in itertools.product((False, True), repeat=len(fields(Facts)))]
ENDS = (Event.DAEMON_KILLED, Event.REBOOT)


def asked(source: str, *functions: str) -> set[Event]:
    """Events that some call of these functions names."""
    return {
        Event[argument.attr]
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
        if call.func.attr.lstrip("_") in functions
        for argument in call.args
        if isinstance(argument, ast.Attribute) and ast.unparse(argument.value) == "Event"
    }


def possible(facts: Facts) -> bool:
    """Whether there is such a volume."""
    try:
        return lifecycle.state_of(facts) in State
    except ConflictError:
        return False


@pytest.mark.parametrize(("state", "event"), LISTED)
def test_a_listed_event_leads_somewhere(state: State, event: Event) -> None:
    assert lifecycle.lists(state, event)
    assert lifecycle.require(state, event) == TABLE[state][event] != frozenset()


@pytest.mark.parametrize(("state", "event"), UNLISTED)
def test_an_unlisted_event_is_a_conflict(state: State, event: Event) -> None:
    assert not lifecycle.lists(state, event)
    with pytest.raises(ConflictError, match=state.value):
        lifecycle.require(state, event)
    with pytest.raises(ConflictError, match="^as the caller says$"):
        lifecycle.require(state, event, "as the caller says")


def test_every_state_can_be_reached_and_every_one_but_the_last_ends() -> None:
    assert set(TABLE) == set(State)
    reached = {State.ABSENT}
    for _ in State:
        reached |= {after for state in reached for ends in TABLE[state].values() for after in ends}
    assert reached == set(State)
    assert [state for state in State if not TABLE[state]] == [State.PURGED]


def test_every_event_happens_somewhere() -> None:
    assert {event for events in TABLE.values() for event in events} == set(Event)


def test_the_code_asks_the_table_for_every_event() -> None:
    """Before what may be refused, and after what happens unasked. How the last daemon ended is kept
    by `VolumeLife.restarted` until files are looked at.
    """
    unasked = {Event.REPLAYED, Event.REPLAY_FAILED, Event.LOST, *ENDS}
    sources = [path.read_text() for path in PACKAGE.rglob("*.py")]
    before = {event for source in sources for event in asked(source, "require")}
    after = {event for source in sources for event in asked(source, "follow")}
    assert before == set(Event) - unasked
    assert after | {Event.REBOOT} == unasked | {Event.SETTLED}


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_what_is_found_follows_or_is_a_conflict(state: State, event: Event) -> None:
    for after in State:
        if after in TABLE[state].get(event, ()):
            lifecycle.follow(frozenset({state}), event, after)
            lifecycle.follow(frozenset(State), event, after)
        else:
            with pytest.raises(
                ConflictError, match=f"{after.value}, .* {event.value} while it was"
            ):
                lifecycle.follow(frozenset({state}), event, after)


def test_facts_make_a_state_unless_two_of_them_exclude_each_other() -> None:
    for facts in FACTS:
        excluded = (
            {facts.removed and facts.mounted, facts.removed and facts.replaying}
            | {facts.repair and facts.mounted, facts.repair and facts.replaying}
            | {facts.replaying and not facts.stored}
        )
        assert possible(facts) != any(excluded), facts
    found = {lifecycle.state_of(facts) for facts in FACTS if possible(facts)}
    assert found == set(State) - {State.ABSENT, State.PURGED}


@pytest.mark.parametrize("event", ENDS)
@pytest.mark.parametrize("facts", [f for f in FACTS if not f.removed])
def test_what_a_daemon_leaves_is_found_by_the_next_one(facts: Facts, event: Event) -> None:
    """Whatever the files are when it ends: a replay is under way no more, and a reboot leaves
    nothing mounted.
    """
    mounted = facts.mounted and event is Event.DAEMON_KILLED
    later = replace(facts, mounted=mounted, replaying=False)
    before = lifecycle.LEFT_MOUNTED if facts.mounted else lifecycle.LEFT_UNMOUNTED
    if not possible(facts):
        return
    assert lifecycle.state_of(facts) in before
    lifecycle.follow(frozenset({lifecycle.state_of(facts)}), event, lifecycle.state_of(later))


def test_the_journal_of_a_repair_does_not_follow_from_a_mounted_volume() -> None:
    """Nor after a reboot, with which the mounts are gone."""
    journal = Facts(mounted=False, live=True, stored=True, repair=True)
    with pytest.raises(ConflictError, match="repairing, .* reboot while it was mounted"):
        lifecycle.follow(lifecycle.LEFT_MOUNTED, Event.REBOOT, lifecycle.state_of(journal))
    with pytest.raises(ConflictError, match="journal of a repair"):
        lifecycle.state_of(replace(journal, mounted=True))


def test_a_mounted_volume_is_neither_removed_nor_repaired_nor_renamed() -> None:
    for event in (Event.REMOVE, Event.REPAIR, Event.RENAME):
        assert not lifecycle.lists(State.MOUNTED, event)


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        (Facts(mounted=False, live=False, stored=False), State.NEW),
        (Facts(mounted=False, live=False, stored=True), State.STORED),
        (Facts(mounted=False, live=False, stored=True, replaying=True), State.REPLAYING),
        (Facts(mounted=False, live=False, stored=True, repair=True), State.STORED),
        (Facts(mounted=False, live=True, stored=False), State.LIVE),
        (Facts(mounted=False, live=True, stored=True, repair=True), State.REPAIRING),
        (Facts(mounted=True, live=False, stored=True, replaying=True), State.MOUNTED),
        (Facts(mounted=False, live=False, stored=True, removed=True), State.TRASHED),
        (Facts(mounted=False, live=True, stored=True, removed=True), State.TRASHED_KEPT),
    ],
)
def test_facts_make_a_state(facts: Facts, state: State) -> None:
    assert lifecycle.state_of(facts) is state


def test_the_drawing_is_the_table() -> None:
    assert f"```mermaid\n{lifecycle.diagram()}\n```" in ARCHITECTURE.read_text()
