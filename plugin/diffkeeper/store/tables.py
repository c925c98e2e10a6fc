"""Every table of the store: its keys, values and invariants.

`FORMAT.md` beside the codecs lists the same tables; a test compares the two.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from diffkeeper.format.ids import ObjectKind

FORMAT_VERSION = 3

_U64 = struct.Struct("<Q")
_ID = struct.Struct(">Q")  # big-endian, so that LMDB's byte order is that of the numbers
_PAIR = struct.Struct(">QQ")
ID_MAX = (1 << 64) - 1
END = b"\xff" * 512  # past every key, since LMDB's have 511 bytes at most


@dataclass(frozen=True, slots=True)
class Table:
    """One named LMDB database."""

    name: str
    key: str
    value: str
    invariants: str
    repaired_by: str
    since: int = 1  # format version that introduced it; an older store gets it when it is opened

    @property
    def database(self) -> bytes:
        """Name of the LMDB database."""
        return self.name.encode()


META = Table(
    name="meta",
    key="name, ASCII",
    value="u64 LE",
    invariants="`format` is the format version; `next_volume_id` exceeds every id ever given out;"
    " `importing` is the one id whose snapshots may have no volume;"
    " `clock_…` is what `volumes.passage` last saw, in nanoseconds",
    repaired_by="nobody: a store without `format` is refused",
)
CHUNKS = Table(
    name="chunks",
    key="blake3 of the plain content, 32 bytes",
    value="stored object: kind, plain length, payload",
    invariants="the plain content hashes to the key; empty but for what formats before 3 left",
    repaired_by="a later capture of the same content, once the damaged value is deleted",
)
NODES = Table(
    name="nodes",
    key="blake3 of the plain node in the node domain, 32 bytes",
    value="stored object: kind, plain length, payload",
    invariants="the plain node hashes to the key; empty but for what formats before 3 left",
    repaired_by="a later capture of the same tree, once the damaged value is deleted",
)
SNAPSHOTS = Table(
    name="snapshots",
    key="volume id u64 BE, sequence number u64 BE",
    value="SnapshotRecord, canonical JSON",
    invariants="stored in one transaction with the last of its objects; never changed",
    repaired_by="nobody: a damaged record is an absent snapshot",
)
VOLUMES = Table(
    name="volumes",
    key="volume id u64 BE",
    value="VolumeRecord, canonical JSON",
    invariants="`head` is null or the sequence number of a stored snapshot of this volume",
    repaired_by="nobody: a volume's live directory and snapshots remain under its id",
)
NAMES = Table(
    name="names",
    key="volume name, UTF-8",
    value="volume id, u64 LE",
    invariants="the volume exists and is not in the trash",
    repaired_by="derived from volumes that have no `removed_ns`",
)
INDEX = Table(
    name="index",
    key="volume id u64 BE, inode number u64 BE",
    value="IndexRecord, packed; of a directory its place (kind, parent_ino, name) and its root node"
    " alone",
    invariants="describes the live file as the head has it, while its directory is at the recorded"
    " place; a hint, never the truth",
    repaired_by="a full scan of the live directory, after it is dropped",
)
PACKS = Table(
    name="packs",
    key="pack number, u64 BE",
    value="pack: many objects, compressed in frames",
    invariants="never changed, and its number never given to another; every object in it hashes to"
    " its digest; the base of a delta is in a pack as long as the delta is",
    repaired_by="a later capture of the same content, once the damaged copy is removed",
    since=3,
)
PLACES = Table(
    name="places",
    key="first 8 bytes of a digest; all 32 where another object has these",
    value="pack number times 65536 plus slot, u64 LE",
    invariants="has every object of the packs up to `places_upto`, but those packed anew later, and"
    " without `places_checked` those that a release before it lost; a place whose pack is gone, or"
    " that holds another digest, is none",
    repaired_by="reading the directories of all packs in order",
    since=3,
)
PROGRESS = Table(
    name="progress",
    key="volume id u64 BE",
    value="seq u64 LE, round u64 LE",
    invariants="what the snapshots up to seq had and their successors no longer have was considered"
    " for deltas, in that many rounds",
    repaired_by="starting from the oldest snapshot again",
    since=3,
)
TOTALS = Table(
    name="totals",
    key="name, ASCII",
    value="u64 LE",
    invariants="equals the sums over all packs, chunks and nodes, garbage among them",
    repaired_by="counting again",
)
TAGS = Table(
    name="tags",
    key="volume id u64 BE, tag name UTF-8",
    value="seq u64 LE",
    invariants="the snapshot is stored; a tag that is there is never given to another one",
    repaired_by="nobody: without its tag a snapshot is thinned like any other",
    since=3,
)
TABLES = (
    META, CHUNKS, NODES, SNAPSHOTS, VOLUMES, NAMES, INDEX, TOTALS, TAGS, PACKS, PLACES, PROGRESS,
)  # fmt: skip
SINGLES = {ObjectKind.NODE: NODES, ObjectKind.CHUNK: CHUNKS}  # left by formats before 3
PLACE_KEY_BYTES = 8

# Option of a volume, and its default before format 3.
CHUNK_SIZE = "chunk-size"
CHUNK_SIZE_BEFORE_3 = "64KiB"

META_FORMAT = b"format"
META_NEXT_VOLUME_ID = b"next_volume_id"
META_PLACES_UPTO = b"places_upto"
META_PLACES_CHECKED = b"places_checked"
META_COLLECTED_BYTES = b"collected_bytes"
META_IMPORTING = b"importing"
META_CLOCK_WALL = b"clock_wall"
META_CLOCK_UNSEEN = b"clock_unseen"
META_CLOCK_WAIT = b"clock_wait"
TOTAL_NAMES = (
    "chunks",
    "chunk_plain_bytes",
    "nodes",
    "stored_bytes",
)


def pack_u64(value: int) -> bytes:
    """A number as a value."""
    return _U64.pack(value)


def unpack_u64(value: bytes) -> int | None:
    """The number of a value, or None if it has not eight bytes."""
    return int.from_bytes(value, "little") if len(value) == _U64.size else None


def id_key(volume_id: int) -> bytes:
    """Key of a volume, and prefix of everything that is kept per volume."""
    return _ID.pack(volume_id)


def pair_key(volume_id: int, number: int) -> bytes:
    """Key of a snapshot (sequence number) or an index record (inode number)."""
    return _PAIR.pack(volume_id, number)


def tag_key(volume_id: int, name: str) -> bytes:
    """Key of a tag; the name follows what `id_key` gives."""
    return id_key(volume_id) + name.encode()


def tag_of(key: bytes) -> tuple[int, str]:
    """(volume id, tag) of a key that `tag_key` made."""
    return int.from_bytes(key[: _ID.size], "big"), key[_ID.size :].decode("utf-8", "replace")


def tags_end(volume_id: int) -> bytes:
    """The key that ends the tags of a volume: no UTF-8 text has this byte."""
    return id_key(volume_id) + b"\xff"


def pair_end(first: int, stop: int | None) -> bytes:
    """The key that ends a range of pairs with one first number: at `stop`, or past the last one."""
    return pair_key(first, ID_MAX) + b"\0" if stop is None else pair_key(first, stop)


def pair_of(key: bytes) -> tuple[int, int]:
    """(volume id, number) of a key that `pair_key` made."""
    volume_id, number = _PAIR.unpack(key)
    return volume_id, number
