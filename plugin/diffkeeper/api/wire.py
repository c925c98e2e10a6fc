"""Requests of the VolumeDriver protocol and the admin API: bytes in, checked values out. Pure.

`messages` defines the form of a request; the functions here check names, paths and references. Any
bytes give a value or InvalidInputError; nothing else is raised.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, TypeVar, cast

from msgspec import UNSET, Struct, structs

from diffkeeper import limits
from diffkeeper.errors import InvalidInputError
from diffkeeper.history.references import parse_reference
from diffkeeper.messages import driver
from diffkeeper.messages.codec import converted
from diffkeeper.messages.endpoint import may_be_empty
from diffkeeper.volumes.names import check_mount_id, check_name, shown
from diffkeeper.volumes.options import parse_options

if TYPE_CHECKING:
    from diffkeeper.history.references import Reference
    from diffkeeper.messages.codec import Json
    from diffkeeper.messages.volumes import VolumeView

R = TypeVar("R", bound=Struct)

_CALLS: Final[dict[str, type[driver.NamedRequest]]] = {
    "VolumeDriver.Create": driver.CreateRequest,
    "VolumeDriver.Remove": driver.RemoveRequest,
    "VolumeDriver.Mount": driver.MountRequest,
    "VolumeDriver.Unmount": driver.UnmountRequest,
    "VolumeDriver.Path": driver.PathRequest,
    "VolumeDriver.Get": driver.GetRequest,
}
_BODILESS: Final[dict[str, driver.Request]] = {
    "VolumeDriver.List": driver.ListRequest(),
    "VolumeDriver.Capabilities": driver.CapabilitiesRequest(),
    "Plugin.Activate": driver.ActivateRequest(),
}
CALLS: Final = (*_CALLS, *_BODILESS)


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


def parse_call(call: str, body: bytes) -> driver.Request:
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
    request = converted(parse_object(body), _CALLS[call])
    check_name(request.name)
    match request:
        case driver.MountRequest() | driver.UnmountRequest():
            check_mount_id(request.mount_id)
        case driver.CreateRequest():
            parse_options(request.options or {})
            return driver.CreateRequest(request.name, request.options or {})
    return request


def volume_message(view: VolumeView, *, status: bool) -> driver.VolumeMessage:
    """A volume as dockerd expects it."""
    return driver.VolumeMessage(
        view.name,
        view.on_host or view.mountpoint,
        view.created_at,
        UNSET if view.status is None or not status else view.status,
    )


def parse_body(body: bytes, kind: type[R]) -> R:
    """The body of a call of the admin API; an empty one means `{}` where nothing is required."""
    if not body.strip() and may_be_empty(kind):
        return kind()
    message = parse_object(body)
    allowed = [field.encode_name for field in structs.fields(kind)]
    unknown = sorted(set(message) - set(allowed))
    if unknown:
        what = f"allowed: {', '.join(allowed)}" if allowed else "send {}"
        raise InvalidInputError(f"unknown field {shown(unknown[0])}; {what}")
    return converted(message, kind)


def parsed_reference(text: str | None) -> Reference | None:
    """A snapshot argument, see `parse_reference`; None is the newest."""
    return None if text is None else parse_reference(text)


def check_number(text: str) -> int:
    """A sequence number in a query."""
    if not (text.isascii() and text.isdecimal() and len(text) <= limits.SEQ_DIGITS_MAX):
        raise InvalidInputError(f"{shown(text)} is not a sequence number")
    return int(text)
