"""Reads an archive: its objects are checked and stored; nothing is visible before the records are.

An object may only refer to objects that came before it or are in the store already. So whatever is
stored is complete, and what is stored in vain is unreachable.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from diffkeeper import failpoint, limits
from diffkeeper.errors import ConflictError, CorruptionError
from diffkeeper.format import chunk, filetree, merkle
from diffkeeper.format.archive import ArchiveFrame, Decoder, FrameKind, decode_tag
from diffkeeper.format.chunk import HOLE
from diffkeeper.format.entry import EMPTY, Entry, Kind, chunk_count
from diffkeeper.format.ids import PLAIN_BYTES_MAX, ObjectId
from diffkeeper.format.records import SnapshotRecord, VolumeRecord
from diffkeeper.format.root import decode_root
from diffkeeper.hashing import DIGEST_BYTES
from diffkeeper.limits import MIB
from diffkeeper.replay.tree_size import TreeSize
from diffkeeper.space.reachable import Window
from diffkeeper.store.store import Batch, Store
from diffkeeper.store.tables import FORMAT_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

IMPORT_BATCH_BYTES = 4 * MIB
IMPORT_SNAPSHOTS_MAX = 100_000
IMPORT_RECORDS_BYTES_MAX = 128 * MIB  # of all snapshots' records, which wait in memory


@dataclass(frozen=True, slots=True)
class Imported:
    """A complete archive: its records, without a volume id yet, and how many objects it had."""

    volume: VolumeRecord
    snapshots: list[SnapshotRecord]
    objects: int
    tags: dict[str, int]  # tag to seq


class Importer:
    """Reads one archive in pieces. Every method blocks on the store; one thread at a time.

    CorruptionError, FormatVersionError, NoSpaceError, and ConflictError for more than a bound
    allows: the import has failed then.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._decoder = Decoder(FORMAT_VERSION)
        self._batch = Batch()
        self._plain: dict[bytes, bytes] = {}  # nodes of the batch
        self._volume: VolumeRecord | None = None
        self._snapshots: list[SnapshotRecord] = []
        self._seqs: set[int] = set()
        self._tags: dict[str, int] = {}
        self._link_id = 0  # the highest so far
        self._record_bytes = 0
        self._size = TreeSize(self._get)
        self._whole = Window(limits.WALK_WINDOW_MAX)  # nodes of files whose objects are complete

    def feed(self, data: bytes) -> None:
        """Process the next bytes; stores objects from time to time."""
        for frame in self._decoder.feed(data):
            self._read_frame(frame)
            if self._batch.size >= IMPORT_BATCH_BYTES:
                self._flush()

    def finish(self) -> Imported:
        """Store the last objects; CorruptionError when the archive was cut short."""
        self._decoder.finish()
        if self._volume is None or not self._snapshots:
            raise CorruptionError("the archive holds no snapshot")
        self._flush()
        last = self._snapshots[-1].seq
        volume = replace(
            self._volume,
            head=last,
            next_seq=max(self._volume.next_seq, last + 1),
            next_link_id=max(self._volume.next_link_id, self._link_id + 1),
        )
        counts = self._decoder.counts
        return Imported(
            volume, self._snapshots, counts[FrameKind.CHUNK] + counts[FrameKind.NODE], self._tags
        )

    def _flush(self) -> None:
        if self._batch.size:
            self._store.commit(self._batch)
            failpoint.hit("import.objects_stored")
        self._batch = Batch()
        self._plain = {}

    def _read_frame(self, frame: ArchiveFrame) -> None:
        if frame.kind is FrameKind.VOLUME:
            self._volume = VolumeRecord.decode(frame.payload)
        elif frame.kind is FrameKind.CHUNK:
            self._chunk(frame.payload)
        elif frame.kind is FrameKind.NODE:
            self._node(frame.payload)
        elif frame.kind is FrameKind.SNAPSHOT:
            self._record_bytes += len(frame.payload)
            self._snapshot(SnapshotRecord.decode(frame.payload))
        elif frame.kind is FrameKind.TAG:
            self._tag(*decode_tag(frame.payload))

    def _chunk(self, payload: bytes) -> None:
        digest, stored = payload[:DIGEST_BYTES], payload[DIGEST_BYTES:]
        _checked(ObjectId.chunk(digest), stored)
        self._batch.chunks[digest] = stored

    def _node(self, payload: bytes) -> None:
        digest, stored = payload[:DIGEST_BYTES], payload[DIGEST_BYTES:]
        plain = _checked(ObjectId.node(digest), stored)
        self._require(digest, self._references(plain))
        self._size.check(digest, plain)
        self._batch.nodes[digest] = stored
        self._plain[digest] = plain

    def _snapshot(self, record: SnapshotRecord) -> None:
        if self._snapshots and record.seq <= self._snapshots[-1].seq:
            raise CorruptionError(f"snapshot {record.seq} of the archive is out of order")
        if len(self._snapshots) >= IMPORT_SNAPSHOTS_MAX:
            raise ConflictError(f"the archive holds more than {IMPORT_SNAPSHOTS_MAX} snapshots")
        if self._record_bytes > IMPORT_RECORDS_BYTES_MAX:
            raise ConflictError(
                f"the records of the archive's snapshots have more than"
                f" {IMPORT_RECORDS_BYTES_MAX} bytes together"
            )
        root = record.root
        self._require(root, [root])
        decode_root(self._get(root))
        self._snapshots.append(replace(record, group={}))
        self._seqs.add(record.seq)

    def _tag(self, name: str, seq: int) -> None:
        if len(self._tags) >= limits.TAGS_MAX or name in self._tags:
            raise CorruptionError(f"the archive has the tag {name!r} twice, or too many tags")
        if seq not in self._seqs:
            raise CorruptionError(f"the tag {name!r} of the archive names no snapshot")
        self._tags[name] = seq

    def _get(self, digest: bytes) -> bytes:
        return self._plain.get(digest) or self._store.node(digest)

    def _require(self, owner: bytes, digests: Iterable[bytes]) -> None:
        """CorruptionError unless all are in the batch or in the store."""
        absent = self._unknown(digests)
        if absent:
            raise CorruptionError(
                f"{owner.hex()} of the archive needs {min(absent).hex()}, which did not come before"
            )

    def _unknown(self, digests: Iterable[bytes]) -> set[bytes]:
        batch = self._batch
        return self._store.unknown(
            [d for d in digests if d not in batch.chunks and d not in batch.nodes]
        )

    def _references(self, plain: bytes) -> Iterator[bytes]:
        """Objects that must exist before this node."""
        yield from (ref.digest for ref in merkle.certain(plain))
        for _, entry in merkle.entries_of(plain):
            if entry.kind is Kind.LINK:
                self._link_id = max(self._link_id, entry.link_id)
            yield from self._end_of_file(entry)
        # Only the last of a file's nodes ends where the file does.
        for child in merkle.children_of_file(plain)[:-1]:
            if child != HOLE:
                yield from self._open_end(child)

    def _open_end(self, digest: bytes) -> Iterator[bytes]:
        """The last chunk below a node of a file's tree, if it has to exist and does not."""
        if digest in self._whole or self._unknown([digest]):
            return  # an absent node is the first thing that is missing
        end = merkle.open_end(self._get(digest))
        missing: list[bytes] = []
        if end is not None and end.is_node:
            missing = list(self._open_end(end.digest))
        elif end is not None:
            missing = list(self._unknown([end.digest]))
        yield from missing
        if not missing:
            self._whole.add(digest)

    def _end_of_file(self, entry: Entry) -> Iterator[bytes]:
        """The last chunk of a file with several, unless its length says that it is implied."""
        count = chunk_count(entry.size, entry.chunk_bits)
        if entry.kind is not Kind.FILE or entry.content == EMPTY or count < 2:
            return
        if self._unknown([entry.content]):
            return  # an absent node is the first thing that is missing
        last = filetree.Lookup(entry.content, count, self._get).at(count - 1)
        if not merkle.is_implied(last, entry.size - ((count - 1) << entry.chunk_bits)):
            yield last


def _checked(each: ObjectId, stored: bytes) -> bytes:
    """The plain content of an object of the archive; CorruptionError when its digest differs."""
    plain = chunk.decode(stored, PLAIN_BYTES_MAX[each.kind])
    if ObjectId.of(each.kind, plain) != each:
        raise CorruptionError(f"{each} of the archive has other content")
    return plain
