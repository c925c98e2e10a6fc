"""Messages of the VolumeDriver protocol and the admin API: bytes in, checked values out. Pure.

Any bytes give a request value or InvalidInputError; nothing else is raised.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from diffkeeper import hashing, limits
from diffkeeper.errors import InvalidInputError
from diffkeeper.history.references import FORMS, check_tag, parse_reference
from diffkeeper.volumes.options import check_mount_id, check_name, parse_options, shown
from diffkeeper.volumes.path_arguments import check_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffkeeper.volumes.views import Json, VolumeView

REPAIR_PATHS_MAX = 100  # in one request; as many as a verification finds
OBJECTS_PER_REQUEST_MAX = 256
FORGET_PER_REQUEST_MAX = 1_000

IMPLEMENTS: Final[Json] = {"Implements": ["VolumeDriver"]}
CAPABILITIES: Final[Json] = {"Capabilities": {"Scope": "local"}, "Err": ""}
OBJECT_KINDS: Final = ("chunk", "node")


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """Make a volume; the options are known to be valid."""

    name: str
    options: dict[str, str]


@dataclass(frozen=True, slots=True)
class RemoveRequest:
    """Remove a volume that nothing has mounted."""

    name: str


@dataclass(frozen=True, slots=True)
class MountRequest:
    """Mount for one container start, known by its ID."""

    name: str
    mount_id: str


@dataclass(frozen=True, slots=True)
class UnmountRequest:
    """Undo one mount of this ID."""

    name: str
    mount_id: str


@dataclass(frozen=True, slots=True)
class PathRequest:
    """Ask for the mountpoint alone."""

    name: str


@dataclass(frozen=True, slots=True)
class GetRequest:
    """Ask for one volume with its status."""

    name: str


@dataclass(frozen=True, slots=True)
class ListRequest:
    """Ask for all volumes."""


@dataclass(frozen=True, slots=True)
class CapabilitiesRequest:
    """Ask for the driver's scope; answered even while the state loads."""


@dataclass(frozen=True, slots=True)
class ActivateRequest:
    """The handshake of a legacy plugin; answered even while the state loads."""


Request = (
    CreateRequest
    | RemoveRequest
    | MountRequest
    | UnmountRequest
    | PathRequest
    | GetRequest
    | ListRequest
    | CapabilitiesRequest
    | ActivateRequest
)


def parse_object(body: bytes) -> Json:
    """The JSON object in `body`; an empty body is a separate error, since retries send one."""
    if len(body) > limits.REQUEST_BYTES_MAX:
        raise InvalidInputError(f"the request is larger than {limits.REQUEST_BYTES_MAX} bytes")
    if not body.strip():
        raise InvalidInputError("the request has no body; send a JSON object")
    try:
        value: object = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise InvalidInputError(f"the request is not valid JSON: {reason[:200]}") from error
    if not isinstance(value, dict):
        raise InvalidInputError("the request is not a JSON object")
    return cast("Json", value)


def _text(message: Json, key: str) -> str:
    value = message.get(key)
    if not isinstance(value, str):
        found = "missing" if key not in message else f"a {_json_type(value)}"
        raise InvalidInputError(f"{key} is {found}; it must be a string")
    return value


def _json_type(value: object) -> str:
    names = {bool: "boolean", dict: "object", list: "list", str: "string", type(None): "null"}
    return names.get(type(value), "number")


def _options(message: Json) -> dict[str, str]:
    value = message.get("Opts")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInputError(f"Opts is a {_json_type(value)}; it must be an object")
    for key, text in value.items():
        if not isinstance(text, str):
            raise InvalidInputError(
                f"option {shown(key)} is a {_json_type(text)}; it must be a string"
            )
    options = cast("dict[str, str]", value)
    parse_options(options)
    return options


def _name(message: Json) -> str:
    return check_name(_text(message, "Name"))


def _mount_id(message: Json) -> str:
    return check_mount_id(_text(message, "ID"))


_CALLS: Final[dict[str, Callable[[Json], Request]]] = {
    "VolumeDriver.Create": lambda m: CreateRequest(_name(m), _options(m)),
    "VolumeDriver.Remove": lambda m: RemoveRequest(_name(m)),
    "VolumeDriver.Mount": lambda m: MountRequest(_name(m), _mount_id(m)),
    "VolumeDriver.Unmount": lambda m: UnmountRequest(_name(m), _mount_id(m)),
    "VolumeDriver.Path": lambda m: PathRequest(_name(m)),
    "VolumeDriver.Get": lambda m: GetRequest(_name(m)),
}
_BODILESS: Final[dict[str, Request]] = {
    "VolumeDriver.List": ListRequest(),
    "VolumeDriver.Capabilities": CapabilitiesRequest(),
    "Plugin.Activate": ActivateRequest(),
}
CALLS: Final = (*_CALLS, *_BODILESS)


def parse_call(call: str, body: bytes) -> Request:
    """The request of a call (such as `VolumeDriver.Mount`) with this body.

    A call without arguments accepts any body within the size limit, also an empty one: dockerd
    sends `{}`, and its retries nothing.
    """
    if call in _BODILESS:
        if len(body) > limits.REQUEST_BYTES_MAX:
            raise InvalidInputError(f"the request is larger than {limits.REQUEST_BYTES_MAX} bytes")
        return _BODILESS[call]
    if call not in _CALLS:
        raise InvalidInputError(f"unknown call {shown(call)}; known: {', '.join(CALLS)}")
    return _CALLS[call](parse_object(body))


def volume_message(view: VolumeView, *, status: bool) -> Json:
    """A volume as dockerd expects it; only Get has `Status`."""
    message: Json = {
        "Name": view.name,
        # For people: the engine uses the path that Mount returns.
        "Mountpoint": view.on_host or view.mountpoint,
        "CreatedAt": view.created_at,
    }
    if status:
        message["Status"] = view.status
    return message


def _known_keys(message: Json, *allowed: str) -> Json:
    unknown = sorted(set(message) - set(allowed))
    if unknown:
        what = f"allowed: {', '.join(allowed)}" if allowed else "send {}"
        raise InvalidInputError(f"unknown field {shown(unknown[0])}; {what}")
    return message


def parse_empty(body: bytes) -> None:
    """A request without arguments: nothing, or `{}`."""
    if body.strip():
        _known_keys(parse_object(body))


def check_reference(value: object) -> str | None:
    """A snapshot argument if it is well formed, see `parse_reference`; None is the newest."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidInputError(f"snapshot is a {_json_type(value)}: give {FORMS}")
    return parse_reference(value).text


def check_number(text: str) -> int:
    """A sequence number in a query."""
    if not (text.isascii() and text.isdecimal() and len(text) <= limits.SEQ_DIGITS_MAX):
        raise InvalidInputError(f"{shown(text)} is not a sequence number")
    return int(text)


def parse_verify(body: bytes) -> str | None:
    """The snapshot reference of `{"snapshot": REF or null}`; an empty body means null."""
    if not body.strip():
        return None
    return check_reference(_known_keys(parse_object(body), "snapshot").get("snapshot"))


def parse_repair(body: bytes) -> tuple[list[bytes] | None, bool]:
    """Paths (None: all that is damaged) and whether to change nothing of
    `{"paths": [PATH, …] or null, "dry_run": …}`.
    """
    message = _known_keys(parse_object(body), "paths", "dry_run") if body.strip() else {}
    paths = message.get("paths")
    if paths is None:
        return None, _flag(message, "dry_run")
    if not isinstance(paths, list) or not paths or not all(isinstance(p, str) for p in paths):
        raise InvalidInputError("paths must be null, or a list of at least one string")
    if len(paths) > REPAIR_PATHS_MAX:
        raise InvalidInputError(f"more than {REPAIR_PATHS_MAX} paths")
    return [check_path(path) for path in paths], _flag(message, "dry_run")


def _flag(message: Json, key: str) -> bool:
    value = message.get(key, False)
    if not isinstance(value, bool):
        raise InvalidInputError(f"{key} is a {_json_type(value)}; it must be a boolean")
    return value


def parse_tag(body: bytes) -> tuple[str, str | None]:
    """Tag and snapshot reference of `{"tag": TAG, "snapshot": REF or null}`."""
    message = _known_keys(parse_object(body), "tag", "snapshot")
    return check_tag(_text(message, "tag")), check_reference(message.get("snapshot"))


def parse_forget(body: bytes) -> list[str]:
    """The references of `{"snapshots": [REF, …]}`."""
    items = _known_keys(parse_object(body), "snapshots").get("snapshots")
    if not isinstance(items, list) or not items or not all(isinstance(i, str) for i in items):
        raise InvalidInputError("snapshots must be a list of at least one string")
    if len(items) > FORGET_PER_REQUEST_MAX:
        raise InvalidInputError(f"more than {FORGET_PER_REQUEST_MAX} snapshots")
    return [parse_reference(item).text for item in items]


def parse_prune(body: bytes) -> tuple[str | None, bool]:
    """Volume (None: all) and whether to change nothing of `{"volume": …, "dry_run": …}`."""
    message = _known_keys(parse_object(body), "volume", "dry_run") if body.strip() else {}
    dry_run = _flag(message, "dry_run")
    volume = message.get("volume")
    return (None if volume is None else check_name(_text(message, "volume"))), dry_run


def parse_set(body: bytes) -> dict[str, str | None]:
    """The options of `{"options": {NAME: VALUE, or null for the default}}`."""
    value = _known_keys(parse_object(body), "options").get("options")
    if not isinstance(value, dict) or not value:
        raise InvalidInputError("options must be an object of at least one option")
    for key, text in value.items():
        if text is not None and not isinstance(text, str):
            raise InvalidInputError(
                f"option {shown(key)} is a {_json_type(text)}; it must be a string, or null"
            )
    return cast("dict[str, str | None]", value)


def parse_rename(body: bytes) -> str:
    """The new name of `{"as": NAME}`."""
    return check_name(_text(_known_keys(parse_object(body), "as"), "as"))


def parse_undelete(body: bytes) -> str | None:
    """The new name of `{"as": NAME or null}`; an empty body means null."""
    message = _known_keys(parse_object(body), "as") if body.strip() else {}
    return None if message.get("as") is None else check_name(_text(message, "as"))


def parse_objects(body: bytes) -> list[tuple[str, bytes]]:
    """Kind and digest of each wanted object from `{"objects": [["chunk", "hex"], …]}`."""
    items = _known_keys(parse_object(body), "objects").get("objects")
    if not isinstance(items, list):
        raise InvalidInputError("objects is missing or not a list")
    if len(items) > OBJECTS_PER_REQUEST_MAX:
        raise InvalidInputError(f"more than {OBJECTS_PER_REQUEST_MAX} objects")
    return [_object(item) for item in items]


def _object(item: object) -> tuple[str, bytes]:
    if isinstance(item, list) and len(item) == 2:
        kind, digest = item
        if kind in OBJECT_KINDS and isinstance(digest, str):
            return kind, _digest(digest)
    raise InvalidInputError('each object must be ["chunk" or "node", "hex digest"]')


def _digest(text: str) -> bytes:
    if len(text) != 2 * hashing.DIGEST_BYTES or not set("0123456789abcdef").issuperset(text):
        raise InvalidInputError(f"{shown(text)} is not a digest of 64 lowercase hex digits")
    return bytes.fromhex(text)
