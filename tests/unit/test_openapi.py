"""docs/openapi.json is what the daemon's socket has, and what its structures say."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, cast

from msgspec import Struct

from diffkeeper.api.health import Health
from diffkeeper.api.server import Server
from tests.support import openapi

if TYPE_CHECKING:
    from diffkeeper.api.checks import CheckedPaths
    from diffkeeper.service.service import VolumeService


def routes() -> set[tuple[str, str]]:
    """Method and path of what a daemon's socket has below /v1/."""
    service = cast("VolumeService", None)  # nothing asks it
    server = Server(service, Health(service), cast("CheckedPaths", None))
    found: set[tuple[str, str]] = set()
    for route in server.application().router.routes():
        assert route.resource is not None
        found.add((route.method, route.resource.canonical))
    return {(method, path) for method, path in found if path.startswith("/v1/")}


def test_the_openapi_document_is_the_routes() -> None:
    document = json.loads(openapi.PATH.read_text())
    told = {(m.upper(), path) for path, calls in document["paths"].items() for m in calls}
    assert told == routes() == {(each.method, each.path) for each in openapi.ENDPOINTS}


def test_the_openapi_document_is_the_structures() -> None:
    """`make openapi` writes it anew."""
    assert openapi.PATH.read_text() == openapi.text()


def test_the_openapi_document_refers_to_what_it_has() -> None:
    text = openapi.PATH.read_text()
    document = json.loads(text)
    names = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert names == set(document["components"]["schemas"])
    for endpoint in openapi.ENDPOINTS:
        call = document["paths"][endpoint.path][endpoint.method.lower()]
        assert str(endpoint.status) in call["responses"]
        body = call.get("requestBody", {"content": {}})["content"]
        if issubclass(endpoint.request, Struct):
            (schema,) = (each["schema"] for each in body.values())
            assert schema["$ref"].endswith(f"/{endpoint.request.__name__}")
