"""The table of a volume's life: every state with every event, and the drawing of it."""

from __future__ import annotations

import ast
import itertools
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


def asked(source: str) -> set[Event]:
    """Events that some call of `require` names."""
    return {
        Event[argument.attr]
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
        if call.func.attr.lstrip("_") == "require"
        for argument in call.args
        if isinstance(argument, ast.Attribute) and ast.unparse(argument.value) == "Event"
    }


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


def test_the_code_asks_before_what_may_be_refused() -> None:
    """The others happen unasked."""
    unasked = {
        *(Event.REPLAYED, Event.REPLAY_FAILED, Event.SETTLED),
        *(Event.LOST, Event.DAEMON_KILLED, Event.REBOOT),
    }
    sources = [path.read_text() for path in PACKAGE.rglob("*.py")]
    assert {event for source in sources for event in asked(source)} == set(Event) - unasked


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
