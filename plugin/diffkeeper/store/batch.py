"""What one transaction writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffkeeper.format.ids import SnapshotId
    from diffkeeper.format.pack import Frame
    from diffkeeper.format.records import SnapshotRecord, VolumeRecord


class ObjectMap(MutableMapping[bytes, bytes]):
    """Digest to stored object; maintains the sum of the values' lengths."""

    def __init__(self, objects: Mapping[bytes, bytes] | None = None) -> None:
        self._objects: dict[bytes, bytes] = {}
        self.stored_bytes = 0
        self.update(objects or {})

    def __getitem__(self, digest: bytes) -> bytes:
        return self._objects[digest]

    def __setitem__(self, digest: bytes, stored: bytes) -> None:
        self.stored_bytes += len(stored) - len(self._objects.get(digest, b""))
        self._objects[digest] = stored

    def __delitem__(self, digest: bytes) -> None:
        self.stored_bytes -= len(self._objects.pop(digest))

    def __contains__(self, digest: object) -> bool:
        return digest in self._objects

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)


@dataclass(slots=True)
class Batch:
    """Objects are digest to stored object, as `format.chunk.encode` makes it, or in `frames`.

    Objects in `chunks` and `nodes` that exist are skipped; frames are stored as they are, so the
    caller asks `Store.unknown` before making them.

    Within one batch, removals (`drop_index`, `index_del`, `names_del`, `tags_del`, `snapshots_del`,
    `volumes_del`) come before additions. A tag names a stored snapshot, and is removed with it.
    """

    chunks: MutableMapping[bytes, bytes] = field(default_factory=ObjectMap)
    nodes: MutableMapping[bytes, bytes] = field(default_factory=ObjectMap)
    frames: list[Frame] = field(default_factory=list)
    index_put: dict[tuple[int, int], bytes] = field(default_factory=dict)  # (volume, inode)
    index_del: set[tuple[int, int]] = field(default_factory=set)
    volumes: list[VolumeRecord] = field(default_factory=list)
    snapshots: list[SnapshotRecord] = field(default_factory=list)
    names_put: dict[str, int] = field(default_factory=dict)
    names_del: set[str] = field(default_factory=set)
    drop_index: set[int] = field(default_factory=set)  # volume ids
    snapshots_del: set[SnapshotId] = field(default_factory=set)
    tags_put: dict[tuple[int, str], int] = field(default_factory=dict)  # (volume, tag) to seq
    tags_del: set[tuple[int, str]] = field(default_factory=set)
    volumes_del: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.chunks = _sized(self.chunks)
        self.nodes = _sized(self.nodes)

    @property
    def size(self) -> int:
        """Stored bytes of all objects in it."""
        framed = sum(frame.stored_bytes for frame in self.frames)
        return _sized(self.chunks).stored_bytes + _sized(self.nodes).stored_bytes + framed

    @property
    def _objects(self) -> bool:
        return bool(self.chunks or self.nodes or self.frames)

    def holds(self) -> set[bytes]:
        """Digests of all objects in it."""
        framed = {member.id.digest for frame in self.frames for member in frame.members}
        return framed.union(self.chunks, self.nodes)

    @property
    def records_only(self) -> bool:
        """Whether it adds no objects and no snapshots, and so needs almost no space."""
        return not (self._objects or self.snapshots or self.index_put)

    @property
    def objects_only(self) -> bool:
        """Whether it only adds objects, and makes nothing visible."""
        return self._objects and not (
            self.snapshots or self.volumes or self.names_put or self.names_del
        )

    def merge(self, other: Batch) -> None:
        """Add everything in the other batch."""
        self.chunks.update(other.chunks)
        self.nodes.update(other.nodes)
        self.frames += other.frames
        self.index_put.update(other.index_put)
        self.index_del |= other.index_del
        self.volumes += other.volumes
        self.snapshots += other.snapshots
        self.names_put.update(other.names_put)
        self.names_del |= other.names_del
        self.drop_index |= other.drop_index
        self.snapshots_del |= other.snapshots_del
        self.tags_put.update(other.tags_put)
        self.tags_del |= other.tags_del
        self.volumes_del |= other.volumes_del


def _sized(objects: MutableMapping[bytes, bytes]) -> ObjectMap:
    return objects if isinstance(objects, ObjectMap) else ObjectMap(objects)
