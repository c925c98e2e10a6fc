"""The JSON of every message, to the byte."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from diffkeeper.errors import InvalidInputError
from diffkeeper.messages import driver, snapshots, store
from diffkeeper.messages.codec import converted, to_json
from diffkeeper.messages.endpoint import NoBody, Octets
from diffkeeper.messages.snapshots import SnapshotView
from tests.support import messages, openapi

if TYPE_CHECKING:
    from collections.abc import Iterator

GOLDEN = Path(__file__).parents[1] / "golden" / "messages.txt"


def examples() -> Iterator[tuple[str, Any, object]]:
    """A name, the kind, and one message of it."""
    for endpoint, answer in messages.ANSWERS.items():
        yield f"{endpoint.method} {endpoint.path}", endpoint.answer, answer
    for message in (*messages.REQUESTS, *messages.OF_DOCKERD, *messages.FOR_DOCKERD):
        yield type(message).__name__, type(message), message


def lines() -> str:
    """What the golden file holds: a name and the JSON of each."""
    return "".join(f"{name}: {to_json(each).decode()}\n" for name, _, each in examples())


def test_every_message_is_the_json_that_it_was() -> None:
    """A change here is one for everybody who speaks to the daemon."""
    assert lines() == GOLDEN.read_text()


@pytest.mark.parametrize(("name", "kind", "message"), list(examples()))
def test_every_message_comes_back_from_its_json(name: str, kind: Any, message: object) -> None:
    assert converted(json.loads(to_json(message)), kind) == message, name


def test_every_endpoint_and_request_has_an_example() -> None:
    assert {*messages.ANSWERS, store.OBJECTS} == set(openapi.ENDPOINTS)
    asked = {each.request for each in openapi.ENDPOINTS} - {NoBody, Octets}
    assert {type(request) for request in messages.REQUESTS} == asked
    spoken = {type(each) for each in (*messages.OF_DOCKERD, *messages.FOR_DOCKERD)}
    known = {kind for kind in vars(driver).values() if isinstance(kind, type)}
    told = {kind for kind in known if re.search("(Request|Answer)$", kind.__name__)}
    bodiless = {driver.ListRequest, driver.CapabilitiesRequest, driver.ActivateRequest}
    assert told - bodiless <= spoken


@pytest.mark.parametrize(
    "value",
    [None, 1, [], {}, {"seq": "1"}, {"\udcff": 1}, {"seq": "\udcff"}, {"tags": ["\udcff", 1]}],
)
def test_what_is_no_message_is_one_error(value: object) -> None:
    with pytest.raises(InvalidInputError) as caught:
        converted(value, SnapshotView)
    assert str(caught.value).isascii()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, "snapshots is missing"),
        ({"snapshots": []}, "snapshots: expected list of at least one"),
        ({"snapshots": ["1"] * 1001}, "snapshots: expected list of at most 1000"),
        ({"snapshots": ["1", 2]}, "snapshots[1]: expected string, got number"),
        ([], "expected object, got list"),
    ],
)
def test_what_does_not_fit_is_said_in_plain_words(value: object, words: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        converted(value, snapshots.ForgetRequest)
    assert str(caught.value) == words


def test_paths_are_escaped() -> None:
    assert snapshots.UNTAG.at(name="a/b", tag="ü") == "/v1/volumes/a%2Fb/tags/%C3%BC"
    assert snapshots.RESOLVE.at("a b", name="v") == "/v1/volumes/v/resolve?snapshot=a%20b"


if __name__ == "__main__":
    GOLDEN.write_text(lines())
