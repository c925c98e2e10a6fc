"""Messages of dockerd's VolumeDriver protocol. Unknown fields are ignored, as dockerd may send more
some day.
"""

from __future__ import annotations

from typing import Final

from msgspec import UNSET, Struct, UnsetType, field

from diffkeeper.messages.volumes import StatusView

NAMES: Final = {"name": "Name", "mount_id": "ID", "options": "Opts"}


class CreateRequest(Struct, frozen=True, rename=NAMES):
    """Make a volume."""

    name: str
    options: dict[str, str] | None = None


class RemoveRequest(Struct, frozen=True, rename=NAMES):
    """Remove a volume that nothing has mounted."""

    name: str


class MountRequest(Struct, frozen=True, rename=NAMES):
    """Mount for one container start, known by its ID."""

    name: str
    mount_id: str


class UnmountRequest(Struct, frozen=True, rename=NAMES):
    """Undo one mount of this ID."""

    name: str
    mount_id: str


class PathRequest(Struct, frozen=True, rename=NAMES):
    """Ask for the mountpoint alone."""

    name: str


class GetRequest(Struct, frozen=True, rename=NAMES):
    """Ask for one volume with its status."""

    name: str


class ListRequest(Struct, frozen=True):
    """Ask for all volumes."""


class CapabilitiesRequest(Struct, frozen=True):
    """Ask for the driver's scope; answered even while the state loads."""


class ActivateRequest(Struct, frozen=True):
    """The handshake of a legacy plugin; answered even while the state loads."""


NamedRequest = (
    CreateRequest | RemoveRequest | MountRequest | UnmountRequest | PathRequest | GetRequest
)
Request = NamedRequest | ListRequest | CapabilitiesRequest | ActivateRequest


class VolumeMessage(Struct, frozen=True, rename="pascal"):
    """A volume; only Get carries its status."""

    name: str
    mountpoint: str  # for people: the engine mounts what Mount answers
    created_at: str
    status: StatusView | UnsetType = UNSET


class DoneAnswer(Struct, frozen=True, rename="pascal"):
    """Success, without a result."""

    err: str = ""


class MountpointAnswer(Struct, frozen=True, rename="pascal"):
    """Mount point of the volume; "" if it is not mounted."""

    mountpoint: str
    err: str = ""


class VolumeAnswer(Struct, frozen=True, rename="pascal"):
    """One volume."""

    volume: VolumeMessage
    err: str = ""


class VolumesAnswer(Struct, frozen=True, rename="pascal"):
    """All volumes."""

    volumes: list[VolumeMessage]
    err: str = ""


class Scope(Struct, frozen=True, rename="pascal"):
    """Scope of the driver: its volumes belong to one host."""

    scope: str = "local"


class CapabilitiesAnswer(Struct, frozen=True, rename="pascal"):
    """Capabilities of the driver."""

    capabilities: Scope = Scope()
    err: str = ""


class ActivateAnswer(Struct, frozen=True, rename="pascal"):
    """Protocols of the plugin."""

    implements: list[str] = field(default_factory=lambda: ["VolumeDriver"])
