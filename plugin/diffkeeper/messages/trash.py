"""Calls and messages about removed volumes."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from diffkeeper.messages.endpoint import Endpoint, NoArguments, NoBody
from diffkeeper.messages.volumes import VolumeView


class TrashView(Struct, frozen=True):
    """One removed volume."""

    name: str
    id: int
    removed: str  # RFC 3339
    purge: str  # RFC 3339: when it is deleted for good
    bytes: int  # logical bytes of its newest snapshot
    snapshots: int
    live: bool  # its live directory is kept: the last state could not be captured at one instant


class UndeleteRequest(Struct, frozen=True, forbid_unknown_fields=True, rename={"name": "as"}):
    """A new name for the volume; null for the one that it had."""

    name: str | None = None


TRASH: Final = Endpoint(
    "GET",
    "/v1/trash",
    NoBody,
    list[TrashView],
    "The removed volumes, first removed first.",
)
EMPTY_TRASH: Final = Endpoint(
    "DELETE",
    "/v1/trash",
    NoArguments,
    list[TrashView],
    "Purge all removed volumes; answers what they were.",
)
PURGE: Final = Endpoint(
    "DELETE",
    "/v1/trash/{name}",
    NoArguments,
    list[TrashView],
    "Purge one removed volume; answers what it was.",
)
UNDELETE: Final = Endpoint(
    "POST",
    "/v1/trash/{name}/undelete",
    UndeleteRequest,
    VolumeView,
    "Bring a removed volume back; answers the volume.",
)
