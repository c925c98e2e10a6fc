"""Objects of the store, fetched through the daemon's socket and checked against their hashes.

So a restore needs no access to the plugin's files, and the plugin none to the target.
"""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Final

from diffkeeper.cli.client import Client
from diffkeeper.errors import CorruptionError
from diffkeeper.format import chunk
from diffkeeper.format.ids import PLAIN_BYTES_MAX, ObjectId, ObjectKind
from diffkeeper.messages.store import OBJECTS, ObjectsRequest

if TYPE_CHECKING:
    from collections.abc import Iterator


LENGTH_BYTES: Final = 4
# Small enough that a batch of the largest chunks stays within tens of MiB.
CHUNKS_PER_REQUEST: Final = 32
NODES_PER_REQUEST: Final = 128


class RemoteObjects:
    """An object source for `replay.replay` and `transfer.archive_write` over `POST /v1/objects`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._thread = threading.local()
        self._clients: list[Client] = []

    def close(self) -> None:
        """Close every connection."""
        for client in self._clients:
            client.close()

    def _client(self) -> Client:
        """The calling thread's own connection, since a replay fetches from several threads."""
        client: Client | None = getattr(self._thread, "client", None)
        if client is None:
            client = self._thread.client = Client(self._path)
            self._clients.append(client)
        return client

    def nodes(self, digests: list[bytes]) -> list[bytes]:
        """Plain bytes of Merkle nodes, in order; raises CorruptionError, NotFoundError."""
        found = self._fetch(ObjectKind.NODE, digests, NODES_PER_REQUEST)
        return [plain for _, plain in found]

    def chunks(self, digests: list[bytes]) -> list[bytes]:
        """Plain content of chunks, in order; raises CorruptionError, NotFoundError."""
        found = self._fetch(ObjectKind.CHUNK, digests, CHUNKS_PER_REQUEST)
        return [plain for _, plain in found]

    def stored_chunks(self, digests: list[bytes]) -> list[bytes]:
        """Chunks as they were sent, in order, checked; raises CorruptionError, NotFoundError."""
        return [stored for stored, _ in self._fetch(ObjectKind.CHUNK, digests, CHUNKS_PER_REQUEST)]

    def _fetch(
        self, kind: ObjectKind, digests: list[bytes], batch_max: int
    ) -> Iterator[tuple[bytes, bytes]]:
        """(bytes as they were sent, plain bytes) of each object, in order."""
        for start in range(0, len(digests), batch_max):
            batch = digests[start : start + batch_max]
            message = ObjectsRequest([(kind.value, digest.hex()) for digest in batch])
            answer = self._client().octets(OBJECTS, message)
            for wanted, stored in itertools.zip_longest(batch, frames(answer)):
                if wanted is None or stored is None:
                    raise CorruptionError(
                        "the daemon sent another number of objects than asked for"
                    )
                plain = chunk.decode(stored, PLAIN_BYTES_MAX[kind])
                if ObjectId.of(kind, plain).digest != wanted:
                    raise CorruptionError(f"{kind} {wanted.hex()} has other content than its hash")
                yield stored, plain


def frames(answer: bytes) -> Iterator[bytes]:
    """The objects in an answer, each after its length; raises CorruptionError if cut short."""
    position = 0
    while position < len(answer):
        start = position + LENGTH_BYTES
        position = start + int.from_bytes(answer[position:start], "little")
        if position > len(answer) or start > len(answer):
            raise CorruptionError("the daemon's answer is cut short")
        yield answer[start:position]
