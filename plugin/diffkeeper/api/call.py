"""One call of the admin API, and which function serves each endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from aiohttp import web
from msgspec import Struct

from diffkeeper.api import wire
from diffkeeper.api.responses import json_response, pieces, read_body
from diffkeeper.volumes.names import check_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from diffkeeper.api.checks import CheckedPaths
    from diffkeeper.api.health import Health
    from diffkeeper.messages.endpoint import Endpoint
    from diffkeeper.service.service import VolumeService

A = TypeVar("A")
Q = TypeVar("Q")


@dataclass(frozen=True, slots=True)
class Called:
    """What calls are about; `paths`: directories that the doctor checks."""

    service: VolumeService
    health: Health
    paths: CheckedPaths


@dataclass(frozen=True, slots=True)
class Call(Generic[Q]):
    """One call. Reading it gives checked values, or raises InvalidInputError."""

    about: Called
    body: Q  # read whole, and converted; empty where the endpoint takes none, or octets
    query: str | None  # value of the endpoint's optional parameter
    _request: web.Request

    @property
    def service(self) -> VolumeService:
        """The volume service; most of it answers once it is ready."""
        return self.about.service

    async def ready(self) -> VolumeService:
        """The volume service once its state is loaded."""
        await self.service.ready()
        return self.service

    async def volume(self) -> str:
        """The name in the path, once the state is loaded; there may be no such volume."""
        name = check_name(self.part("name"))
        await self.ready()
        return name

    def part(self, name: str) -> str:
        """What stands for {name} in the path."""
        return self._request.match_info[name]

    def octets(self) -> AsyncIterator[bytes]:
        """The body of an endpoint that takes octets, see `responses.pieces`."""
        return pieces(self._request)


class Calls:
    """The calls of one subject."""

    def __init__(self) -> None:
        self._served: Final[list[tuple[Endpoint[Any, object], Callable[..., Any]]]] = []

    def serve(
        self, endpoint: Endpoint[Q, A]
    ) -> Callable[[Callable[[Call[Q]], Awaitable[A]]], Callable[[Call[Q]], Awaitable[A]]]:
        """Make the function below the one that serves an endpoint: it returns the answer."""

        def served(function: Callable[[Call[Q]], Awaitable[A]]) -> Any:
            self._served.append((endpoint, function))
            return function

        return served

    def routes(self, about: Called) -> list[web.RouteDef]:
        """A route for each; one for GET does not answer HEAD."""
        return [
            web.route(
                endpoint.method,
                endpoint.path,
                _handler(endpoint, function, about),
                **({"allow_head": False} if endpoint.method == "GET" else {}),
            )
            for endpoint, function in self._served
        ]


def _handler(
    endpoint: Endpoint[Q, A], function: Callable[[Call[Q]], Awaitable[A]], about: Called
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handler(request: web.Request) -> web.Response:
        query = request.query.get(endpoint.query)
        answer = await function(Call(about, await _body(endpoint, request), query, request))
        if isinstance(answer, bytes):
            return web.Response(body=answer, content_type="application/octet-stream")
        return json_response(answer, endpoint.status)

    return handler


async def _body(endpoint: Endpoint[Q, object], request: web.Request) -> Q:
    kind = endpoint.request
    if issubclass(kind, Struct):
        return wire.parse_body(await read_body(request), kind)
    return kind()
