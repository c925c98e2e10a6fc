"""A volume's history written as an archive, see `format.archive`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from diffkeeper.format import chunk
from diffkeeper.format.archive import ArchiveEncoder, FrameKind, encode_tag
from diffkeeper.space.reachable import Walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffkeeper.format.records import SnapshotRecord, VolumeRecord

TRANSFER_CHUNKS = 32  # requested at once


class HistorySource(Protocol):
    """Source of the objects; each is checked against its digest before it is returned."""

    def nodes(self, digests: list[bytes]) -> list[bytes]:
        """Plain nodes in order; raises NotFoundError, CorruptionError."""

    def stored_chunks(self, digests: list[bytes]) -> list[bytes]:
        """Chunks in order as `format.chunk.decode` reads them; NotFoundError, CorruptionError."""


class Exporter:
    """Writes one archive: call `begin`, `snapshot` from the oldest to the newest, `end`.

    `write` takes bytes; `progress` the bytes and objects written so far. An archive without its end
    is refused by every reader.
    """

    def __init__(
        self,
        source: HistorySource,
        write: Callable[[bytes], object],
        progress: Callable[[int, int], None],
    ) -> None:
        self._source, self._write, self._progress = source, write, progress
        self._encoder = ArchiveEncoder()
        self._walk = Walk(source.nodes)
        self.bytes = 0

    @property
    def objects(self) -> int:
        """Number of chunks and nodes written so far."""
        counts = self._encoder.counts
        return counts[FrameKind.CHUNK] + counts[FrameKind.NODE]

    @property
    def snapshots(self) -> int:
        """Number of snapshots written so far."""
        return self._encoder.counts[FrameKind.SNAPSHOT]

    def begin(self, volume: VolumeRecord, format_version: int) -> None:
        """Write the volume's record, without what is only valid on this host."""
        carried = replace(
            volume, mounts={}, boot_id="", live_id="", clean=True, verified_seq=None,
            removed_ns=None,
        )  # fmt: skip
        self._put(self._encoder.preface(format_version))
        self._put(self._encoder.frame(FrameKind.VOLUME, carried.encode()))

    def snapshot(self, record: SnapshotRecord) -> None:
        """Write one snapshot, after all of its objects that were not written yet.

        NotFoundError when it was forgotten meanwhile: then continue with the next one.
        """
        waiting: list[bytes] = []
        try:
            for found in self._walk.objects(record.root):
                if not found.is_node:
                    waiting.append(found.digest)
                if found.is_node or len(waiting) >= TRANSFER_CHUNKS:
                    self._chunks(waiting)
                    waiting = []
                if found.is_node:
                    payload = found.digest + chunk.encode(found.plain)
                    self._put(self._encoder.frame(FrameKind.NODE, payload))
        except BaseException:
            # Not everything that was visited was written: nothing of it may count as known.
            self._walk = Walk(self._source.nodes)
            raise
        # Other volumes' ids mean nothing elsewhere.
        alone = replace(record, group={})
        self._put(self._encoder.frame(FrameKind.SNAPSHOT, alone.encode()))

    def tag(self, name: str, seq: int) -> None:
        """Write a tag of a snapshot that is written."""
        self._put(self._encoder.frame(FrameKind.TAG, encode_tag(name, seq)))

    def end(self) -> None:
        """Write the trailer."""
        self._put(self._encoder.end())

    def _chunks(self, digests: list[bytes]) -> None:
        stored = self._source.stored_chunks(digests) if digests else []
        for digest, each in zip(digests, stored, strict=True):
            self._put(self._encoder.frame(FrameKind.CHUNK, digest + each))

    def _put(self, data: bytes) -> None:
        self._write(data)
        self.bytes += len(data)
        self._progress(self.bytes, self.objects)
