"""blake3 keys. Chunks are keyed by their plain content; nodes are hashed in a domain of their own.

The separate domain makes sure that a file whose content equals the bytes of a node is never taken
for that node.
"""

from __future__ import annotations

from blake3 import blake3

BytesLike = bytes | bytearray | memoryview
DIGEST_BYTES = 32
SHORT_BYTES = 16  # of a digest: no two objects share as many by chance
_NODE_CONTEXT = "diffkeeper merkle node v1"


def chunk_digest(plain: BytesLike) -> bytes:
    """Key of a chunk: blake3 of its plain content, 32 bytes."""
    return blake3(plain).digest()


def node_digest(encoded: BytesLike) -> bytes:
    """Key of a Merkle node: blake3 of its encoded bytes in the node domain, 32 bytes."""
    return blake3(encoded, derive_key_context=_NODE_CONTEXT).digest()
