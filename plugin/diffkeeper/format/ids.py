"""Names of stored objects and of snapshots: digests as `hashing` makes them."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from diffkeeper import limits
from diffkeeper.hashing import chunk_digest, node_digest

if TYPE_CHECKING:
    from diffkeeper.hashing import BytesLike


class ObjectKind(StrEnum):
    """Content of files, or part of a Merkle tree; spelled as the API spells it."""

    CHUNK = "chunk"
    NODE = "node"


# Plain bytes of the largest one of each kind.
PLAIN_BYTES_MAX: Final = {
    ObjectKind.CHUNK: limits.CHUNK_BYTES_MAX,
    ObjectKind.NODE: limits.NODE_BYTES_MAX,
}


def digest_of(kind: ObjectKind, plain: BytesLike) -> bytes:
    """Digest (32 bytes) of plain content."""
    return node_digest(plain) if kind is ObjectKind.NODE else chunk_digest(plain)


class ObjectId(NamedTuple):
    """Kind and digest (32 bytes) of an object: two kinds never share a digest.

    A tuple, since millions are made. Where the kind does not matter, the digest alone is a key.
    """

    kind: ObjectKind
    digest: bytes

    @classmethod
    def chunk(cls, digest: bytes) -> Self:
        """The chunk of a digest."""
        return cls(ObjectKind.CHUNK, digest)

    @classmethod
    def node(cls, digest: bytes) -> Self:
        """The node of a digest."""
        return cls(ObjectKind.NODE, digest)

    @classmethod
    def of(cls, kind: ObjectKind, plain: BytesLike) -> Self:
        """The object of a kind that has this plain content."""
        return cls(kind, digest_of(kind, plain))

    @property
    def is_node(self) -> bool:
        """Whether it is a node; else it is a chunk."""
        return self.kind is ObjectKind.NODE

    def __str__(self) -> str:
        """As errors show it."""
        return f"{self.kind} {self.digest.hex()}"


class SnapshotId(NamedTuple):
    """Volume id and sequence number of a snapshot."""

    volume_id: int
    seq: int


class Root(bytes):
    """Merkle root of a snapshot: digest of its root node, 32 bytes.

    Hexadecimal in records and in the API: `Root.fromhex`, ValueError, and `hex`.
    """

    __slots__ = ()
