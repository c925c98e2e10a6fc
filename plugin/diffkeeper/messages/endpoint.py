"""What a call of the admin API is. Each is declared beside its structures, in its subject's module.

The daemon's routes, its clients and docs/openapi.json are made of these declarations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar
from urllib.parse import quote

from msgspec import Struct, structs

Q = TypeVar("Q")
A_co = TypeVar("A_co", covariant=True)
VOLUME: Final = "/v1/volumes/{name}"


class NoBody:
    """Request of a call that has no body; one that is sent all the same is not read."""


class Octets:
    """Request of a call whose body is a stream of octets of any length, not JSON."""


class NoArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing, or `{}`."""


def may_be_empty(request: type[Struct]) -> bool:
    """Whether nothing of a structure is required."""
    return not any(field.required for field in structs.fields(request))


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[Q, A_co]):
    """One call. An answer of type `bytes` is octets, not JSON."""

    method: Literal["GET", "POST", "DELETE"]
    path: str  # with {name} and {tag} where they go
    request: type[Q]  # a structure, NoBody or Octets
    answer: type[A_co]
    summary: str
    query: str = ""  # name of an optional parameter
    status: int = 200  # of success

    @property
    def body_optional(self) -> bool:
        """Whether an empty body is allowed, and means `{}`."""
        return issubclass(self.request, Struct) and may_be_empty(self.request)

    def at(self, query: str | None = None, **names: str) -> str:
        """The path with escaped names; `query`: value of the query parameter."""
        path = self.path.format(**{key: quote(value, safe="") for key, value in names.items()})
        return path if query is None else f"{path}?{self.query}={quote(query, safe='')}"
