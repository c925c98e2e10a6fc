"""Bodies of the admin API's calls. Unknown fields are refused.

The bounds here are those of the messages. `api.wire` checks whether a name, a path or a snapshot is
well formed.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

DIGEST_DIGITS: Final = 64
REPAIR_PATHS_MAX: Final = 100  # in one request; as many as a verification finds
OBJECTS_PER_REQUEST_MAX: Final = 256
FORGET_PER_REQUEST_MAX: Final = 1_000

Kind = Literal["chunk", "node"]
Digest = Annotated[
    str, Meta(pattern="^[0-9a-f]+$", min_length=DIGEST_DIGITS, max_length=DIGEST_DIGITS)
]


class NoArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing, or `{}`."""


class SetRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Options by name; null for the default of one."""

    options: Annotated[dict[str, str | None], Meta(min_length=1)]


class RenameRequest(Struct, frozen=True, forbid_unknown_fields=True, rename={"name": "as"}):
    """The new name."""

    name: str


class VerifyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The snapshot; null for the live directory against the newest one."""

    snapshot: str | None = None


class RepairRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Damaged files, null for all; whether to only list them."""

    paths: Annotated[list[str], Meta(min_length=1, max_length=REPAIR_PATHS_MAX)] | None = None
    dry_run: bool = False


class TagRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A tag, and the snapshot that gets it; null for the newest crash-consistent one."""

    tag: str
    snapshot: str | None = None


class ForgetRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Snapshots to be forgotten."""

    snapshots: Annotated[list[str], Meta(min_length=1, max_length=FORGET_PER_REQUEST_MAX)]


class PruneRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A volume, null for all; whether to only list what would be forgotten."""

    volume: str | None = None
    dry_run: bool = False


class UndeleteRequest(Struct, frozen=True, forbid_unknown_fields=True, rename={"name": "as"}):
    """A new name for the volume; null for the one that it had."""

    name: str | None = None


class ObjectsRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Kind and digest of each wanted object."""

    objects: Annotated[list[tuple[Kind, Digest]], Meta(max_length=OBJECTS_PER_REQUEST_MAX)]
