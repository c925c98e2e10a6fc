"""usage: python -m tests.support.openapi

Writes docs/openapi.json: the admin API as its endpoints and structures say it.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from pathlib import Path
from typing import Any, Final

import msgspec

import diffkeeper
from diffkeeper import messages
from diffkeeper.messages.endpoint import Endpoint, NoBody, Octets
from diffkeeper.messages.machine import ErrorAnswer

PATH: Final = Path(__file__).parents[2] / "docs" / "openapi.json"
REFERENCE: Final = "#/components/schemas/{name}"
ABOUT: Final = (
    "JSON over HTTP/1.1 on the daemon's Unix socket, for its owner only. Text that is not ASCII is"
    " escaped; bytes of paths that are no UTF-8 are lone surrogates."
)
PARAMETERS: Final = {
    "name": "A volume; below /v1/trash a removed volume's name or id.",
    "tag": "A tag.",
    "snapshot": "A sequence number, the start of a root, a tag, a moment, an age, or latest.",
    "after": "A sequence number.",
}
Json = dict[str, Any]


def declared() -> tuple[Endpoint[Any, Any], ...]:
    """Every endpoint that `messages` declares: by module, in the order of the source."""
    names = sorted(each.name for each in pkgutil.iter_modules(messages.__path__))
    modules = [importlib.import_module(f"diffkeeper.messages.{name}") for name in names]
    values = [value for module in modules for value in vars(module).values()]
    return tuple(value for value in values if isinstance(value, Endpoint))


ENDPOINTS: Final = declared()


def document() -> Json:
    """The whole of it."""
    kinds = list(dict.fromkeys(_kinds()))
    schemas, components = msgspec.json.schema_components(kinds, ref_template=REFERENCE)
    of_kind = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, Json] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _call(endpoint, of_kind)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "DiffKeeper's admin API",
            "version": diffkeeper.__version__,
            "description": ABOUT,
        },
        "paths": paths,
        "components": {"schemas": components},
    }


def _kinds() -> list[Any]:
    kinds: list[Any] = [ErrorAnswer]
    for endpoint in ENDPOINTS:
        kinds += [kind for kind in (endpoint.request, endpoint.answer) if _is_json(kind)]
    return kinds


def _is_json(kind: object) -> bool:
    return kind not in (NoBody, Octets, bytes)


def _call(endpoint: Endpoint[Any, Any], of_kind: dict[Any, Json]) -> Json:
    found: Json = {"summary": endpoint.summary}
    parameters = [_parameter(name, "path") for name in re.findall(r"\{(\w+)\}", endpoint.path)]
    parameters += [_parameter(endpoint.query, "query")] if endpoint.query else []
    if parameters:
        found["parameters"] = parameters
    if endpoint.request is not NoBody:
        found["requestBody"] = {
            "required": not endpoint.body_optional,
            "content": _content(endpoint.request, of_kind),
        }
    found["responses"] = {
        str(endpoint.status): {
            "description": "Success.",
            "content": _content(endpoint.answer, of_kind),
        },
        "default": {
            "description": "Refused or failed; `error` is the kind of error.",
            "content": _content(ErrorAnswer, of_kind),
        },
    }
    return found


def _parameter(name: str, where: str) -> Json:
    return {
        "name": name,
        "in": where,
        "required": where == "path",
        "description": PARAMETERS[name],
        "schema": {"type": "string"},
    }


def _content(kind: Any, of_kind: dict[Any, Json]) -> Json:
    if not _is_json(kind):
        return {"application/octet-stream": {}}
    return {"application/json": {"schema": of_kind[kind]}}


def text() -> str:
    """The file's content."""
    return json.dumps(document(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(text())
