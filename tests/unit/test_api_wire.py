"""Messages: any bytes in, a checked value or InvalidInputError out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffkeeper import limits
from diffkeeper.api import wire
from diffkeeper.errors import InvalidInputError
from diffkeeper.messages import driver
from diffkeeper.messages.codec import plain
from diffkeeper.messages.endpoint import NoArguments
from diffkeeper.messages.integrity import VerifyRequest
from diffkeeper.messages.store import OBJECTS_PER_REQUEST_MAX, ObjectsRequest
from diffkeeper.messages.volumes import VolumeView
from tests.support import messages

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)
MESSAGES = st.dictionaries(st.sampled_from(["Name", "ID", "Opts", "objects", "snapshot"]), JSON)


def body(**message: object) -> bytes:
    return json.dumps(message).encode()


def reference(content: bytes) -> str | None:
    """What a request to verify names."""
    found = wire.parsed_reference(wire.parse_body(content, VerifyRequest).snapshot)
    return None if found is None else found.text


def objects_of(content: bytes) -> list[tuple[str, bytes]]:
    found = wire.parse_body(content, ObjectsRequest).objects
    return [(kind, bytes.fromhex(digest)) for kind, digest in found]


@pytest.mark.parametrize(
    ("call", "message", "expected"),
    [
        ("Create", {"Name": "v"}, driver.CreateRequest("v", {})),
        ("Create", {"Name": "v", "Opts": None}, driver.CreateRequest("v", {})),
        (
            "Create",
            {"Name": "v", "Opts": {"interval": "1s"}},
            driver.CreateRequest("v", {"interval": "1s"}),
        ),
        ("Remove", {"Name": "v"}, driver.RemoveRequest("v")),
        ("Mount", {"Name": "v", "ID": "1f"}, driver.MountRequest("v", "1f")),
        ("Unmount", {"Name": "v", "ID": "1f"}, driver.UnmountRequest("v", "1f")),
        ("Path", {"Name": "v"}, driver.PathRequest("v")),
        ("Get", {"Name": "v", "Later": [1]}, driver.GetRequest("v")),
    ],
)
def test_good_calls(call: str, message: dict[str, object], expected: driver.Request) -> None:
    assert wire.parse_call(f"VolumeDriver.{call}", body(**message)) == expected


@pytest.mark.parametrize("text", [b"", b"{}", b"null", b"\xff"])
def test_calls_without_arguments_take_any_body(text: bytes) -> None:
    assert wire.parse_call("VolumeDriver.List", text) == driver.ListRequest()
    assert wire.parse_call("VolumeDriver.Capabilities", text) == driver.CapabilitiesRequest()
    assert wire.parse_call("Plugin.Activate", text) == driver.ActivateRequest()


@pytest.mark.parametrize("call", wire.CALLS)
def test_the_size_is_bounded(call: str) -> None:
    with pytest.raises(InvalidInputError, match="larger than"):
        wire.parse_call(call, b" " * (limits.REQUEST_BYTES_MAX + 1))


def test_an_unknown_call_lists_the_known_ones() -> None:
    with pytest.raises(InvalidInputError, match=r"VolumeDriver\.Mount"):
        wire.parse_call("VolumeDriver.Destroy", b"{}")


def test_an_empty_body_says_so() -> None:
    with pytest.raises(InvalidInputError, match="no body"):
        wire.parse_call("VolumeDriver.Mount", b"")


@given(st.sampled_from(wire.CALLS), st.binary(max_size=64))
def test_any_bytes(call: str, content: bytes) -> None:
    try:
        wire.parse_call(call, content)
    except InvalidInputError as error:
        assert len(str(error)) < 600


@given(st.sampled_from(wire.CALLS), MESSAGES)
def test_any_message(call: str, message: dict[str, object]) -> None:
    for parse in (lambda b: wire.parse_call(call, b), reference, objects_of):
        try:
            parse(json.dumps(message).encode())
        except InvalidInputError as error:
            assert len(str(error)) < 600


def test_a_volume_for_dockerd() -> None:
    view = VolumeView("v", "2026-01-01T00:00:00Z", "/mnt/v", "/live", status=messages.status())
    shown = {"Name": "v", "Mountpoint": "/live", "CreatedAt": "2026-01-01T00:00:00Z"}
    assert plain(wire.volume_message(view, status=False)) == shown
    whole = {**shown, "Status": plain(view.status)}
    assert plain(wire.volume_message(view, status=True)) == whole


def test_objects() -> None:
    digest = bytes(range(32))
    message = body(objects=[["chunk", digest.hex()], ["node", digest.hex()]])
    assert objects_of(message) == [("chunk", digest), ("node", digest)]
    assert objects_of(body(objects=[])) == []


@pytest.mark.parametrize(
    "objects",
    [
        None,
        {},
        [1],
        ["chunk"],
        [["chunk"]],
        [["chunk", 1]],
        [["pack", "00" * 32]],
        [["chunk", "00" * 31]],
        [["chunk", "0X" + "00" * 31]],
        [["chunk", "AA" * 32]],
        [[["chunk"], "00" * 32]],
        [["chunk", "00" * 32]] * (OBJECTS_PER_REQUEST_MAX + 1),
    ],
)
def test_bad_objects(objects: object) -> None:
    with pytest.raises(InvalidInputError):
        objects_of(body(objects=objects))


@pytest.mark.parametrize("good", ["1", "12", "0123abcd", "f" * 64])
def test_references(good: str) -> None:
    assert reference(body(snapshot=good)) == good


def test_no_reference_means_the_newest() -> None:
    for empty in (b"", b"{}", body(snapshot=None)):
        assert reference(empty) is None


@pytest.mark.parametrize("bad", ["", "HEAD~1", "0x12", "f" * 65, "-1", "1 ", 1, True, [], "٣"])
def test_bad_references(bad: object) -> None:
    with pytest.raises(InvalidInputError, match="snapshot"):
        reference(body(snapshot=bad))


def test_unknown_fields_are_refused_in_the_admin_api() -> None:
    with pytest.raises(InvalidInputError, match="snapshto"):
        reference(body(snapshto="1"))
    with pytest.raises(InvalidInputError, match="force"):
        wire.parse_body(body(force=True), NoArguments)
    wire.parse_body(b"", NoArguments)
    wire.parse_body(b"{}", NoArguments)
