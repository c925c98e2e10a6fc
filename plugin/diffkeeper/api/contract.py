"""What the API needs of the volume service; `volumes.service.VolumeService` provides it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from diffkeeper.volumes.model import (
        FeatureView,
        GroupMember,
        SnapshotView,
        VerifyReport,
        VolumeView,
    )


class Service(Protocol):
    """The volume service as the API calls it. Methods that are not `async` answer from memory."""

    async def ready(self) -> None:
        """Return once the state is loaded; raises what made loading fail."""

    async def create(self, name: str, options: dict[str, str]) -> None: ...

    async def remove(self, name: str) -> None: ...

    async def mount(self, name: str, mount_id: str) -> str: ...

    async def unmount(self, name: str, mount_id: str) -> None: ...

    def view(self, name: str) -> VolumeView: ...

    def views(self) -> Sequence[VolumeView]: ...

    def mountpoint(self, name: str) -> str: ...

    async def snapshots(self, name: str) -> Sequence[SnapshotView]: ...

    async def snapshot(self, name: str) -> SnapshotView: ...

    async def verify(self, name: str, snapshot: str | None) -> VerifyReport: ...

    async def resolve(self, name: str, reference: str | None) -> SnapshotView: ...

    async def group(self, name: str, reference: str | None) -> Sequence[GroupMember]: ...

    async def objects(self, digests: list[tuple[str, bytes]]) -> list[bytes]: ...

    def stats(self) -> Mapping[str, object]: ...

    def features(self, *, look: bool) -> Sequence[FeatureView]: ...

    def ebpf_counts(self) -> Mapping[str, int]: ...

    def troubles(self) -> Sequence[str]: ...
