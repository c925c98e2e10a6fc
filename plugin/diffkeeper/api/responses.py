"""Reads requests within bounds, and makes answers; every error becomes the same JSON."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from aiohttp import web

from diffkeeper import limits
from diffkeeper.errors import (
    BusyError,
    DiffKeeperError,
    InvalidInputError,
    NotFoundError,
    described,
)
from diffkeeper.messages.codec import to_json
from diffkeeper.messages.machine import ErrorAnswer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)

IMPORT_SILENT_SECONDS_MAX = 600.0


def json_response(value: object, status: int = 200) -> web.Response:
    """A message as JSON, see `messages.codec`."""
    return web.Response(body=to_json(value), status=status, content_type="application/json")


def error_response(error: DiffKeeperError, status: int | None = None) -> web.Response:
    """An `ErrorAnswer` with the HTTP status of the exception's class, or `status`."""
    answer = ErrorAnswer(described(error), error.exit_code, type(error).__name__)
    return json_response(answer, status or error.http_status)


async def read_body(request: web.Request) -> bytes:
    """The whole body; raises InvalidInputError beyond REQUEST_BYTES_MAX, without reading
    further.
    """
    declared = request.content_length
    body = bytearray()
    if declared is None or declared <= limits.REQUEST_BYTES_MAX:
        async for piece in request.content.iter_any():
            body += piece
            if len(body) > limits.REQUEST_BYTES_MAX:
                break
        else:
            return bytes(body)
    raise InvalidInputError(f"the request is larger than {limits.REQUEST_BYTES_MAX} bytes")


async def pieces(request: web.Request) -> AsyncIterator[bytes]:
    """A body of any length in pieces of bounded size; BusyError when nothing arrives for long."""
    waiting = bytearray()
    while True:
        try:
            async with asyncio.timeout(IMPORT_SILENT_SECONDS_MAX):
                part = await request.content.readany()
        except TimeoutError:
            raise BusyError("the sender has been silent for too long") from None
        waiting += part
        if len(waiting) >= limits.TRANSFER_PIECE_BYTES or (waiting and not part):
            yield bytes(waiting)
            waiting.clear()
        if not part:
            return


def is_driver_path(path: str) -> bool:
    """Whether `path` belongs to dockerd's protocol, where every error has status 500."""
    return not path.startswith("/v1/")


def http_error(error: web.HTTPException, request: web.Request) -> web.Response:
    """An answer in the common JSON for aiohttp's own errors (no such path, wrong method)."""
    where = f"{request.method} {request.path[:128]}"
    if isinstance(error, web.HTTPMethodNotAllowed):
        message = f"{where}: use {' or '.join(sorted(error.allowed_methods))}"
    elif isinstance(error, web.HTTPNotFound):
        message = f"{where}: no such path"
    else:
        message = f"{where}: {error.reason}"
    response = error_response(InvalidInputError(message), error.status)
    response.headers.update({k: v for k, v in error.headers.items() if k == "Allow"})
    return response


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every exception into an answer; an unexpected one is logged with its traceback."""
    driver = is_driver_path(request.path)
    try:
        return await handler(request)
    except DiffKeeperError as error:
        # dockerd asks for every volume before it creates it: that it is not found is normal.
        level = logging.DEBUG if isinstance(error, NotFoundError) else logging.INFO
        fields = {
            "path": request.path[:128],
            "error": described(error),
            "kind": type(error).__name__,
        }
        log.log(level, "request_refused", extra=fields)
        return error_response(error, 500 if driver else None)
    except web.HTTPException as error:
        return http_error(error, request)
    except Exception as error:
        log.exception("request_failed", extra={"path": request.path[:128]})
        kind = type(error).__name__
        return error_response(DiffKeeperError(f"internal error ({kind}): see the plugin's log"))
