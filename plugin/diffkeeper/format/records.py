"""Snapshot and volume records as canonical JSON, index records as packed integers.

Decoding is strict: unknown, missing or mistyped fields, other spacing or another order of keys
are CorruptionError, so that every record has exactly one encoding. A snapshot's `group` is left out
where it is empty, which is the encoding of format version 1.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, field
from typing import Final, TypeAlias

from msgspec import Struct

from diffkeeper.errors import CorruptionError, InvalidInputError
from diffkeeper.format import times
from diffkeeper.format.entry import EMPTY, SIZE_MAX
from diffkeeper.format.ids import Root, SnapshotId
from diffkeeper.hashing import DIGEST_BYTES, chunk_digest
from diffkeeper.limits import GROUP_VOLUMES_MAX, NAME_BYTES_MAX, RECORD_BYTES_MAX

Encoded: TypeAlias = bytes  # SnapshotRecord has a field named bytes
CONSISTENCIES: Final = ("crash", "fuzzy")
GROUP_ID_DIGITS: Final = 16
INDEX = struct.Struct("<BQqqqQQ32s")
# Added to the kind where a time is too far away for 64 bits of nanoseconds: the fields hold seconds
# then, and the nanoseconds of both follow them.
INDEX_WIDE = 0x80
INDEX_NANOSECONDS = struct.Struct("<II")


def _encode(fields: dict[str, object]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _decode(encoded: bytes, what: str) -> dict[str, object]:
    """The JSON object with the canonical text `encoded`."""
    if len(encoded) > RECORD_BYTES_MAX:
        raise CorruptionError(f"{what} record of {len(encoded)} bytes exceeds its bound")
    try:
        fields = json.loads(encoded)
        canonical = isinstance(fields, dict) and _encode(fields) == encoded
    except (ValueError, RecursionError) as error:
        raise CorruptionError(f"{what} record is not JSON: {error}") from None
    if not canonical:
        raise CorruptionError(f"{what} record is not a canonical JSON object")
    found: dict[str, object] = fields
    return found


class _Fields:
    """Takes typed fields out of a decoded record; anything unexpected is a CorruptionError."""

    def __init__(self, fields: dict[str, object], what: str) -> None:
        self._fields, self._what = fields, what

    def _pop(self, name: str) -> object:
        if name not in self._fields:
            raise CorruptionError(f"{self._what} record lacks {name!r}")
        return self._fields.pop(name)

    def _wrong(self, name: str) -> CorruptionError:
        return CorruptionError(f"{self._what} record: {name!r} has a wrong type or value")

    def number(self, name: str) -> int:
        value = self._pop(name)
        if type(value) is not int or not 0 <= value <= SIZE_MAX:
            raise self._wrong(name)
        return value

    def optional_number(self, name: str) -> int | None:
        if self._fields.get(name, 0) is None:
            self._fields.pop(name)
            return None
        return self.number(name)

    def real(self, name: str) -> float:
        value = self._pop(name)
        if type(value) is not float or not 0 <= value < float("inf"):
            raise self._wrong(name)
        return value

    def text(self, name: str) -> str:
        value = self._pop(name)
        if not _is_text(value):
            raise self._wrong(name)
        return str(value)

    def flag(self, name: str) -> bool:
        value = self._pop(name)
        if type(value) is not bool:
            raise self._wrong(name)
        return value

    def texts(self, name: str) -> dict[str, str]:
        value = self._pop(name)
        if not isinstance(value, dict) or not all(map(_is_text, (*value, *value.values()))):
            raise self._wrong(name)
        return dict(value)

    def numbers(self, name: str) -> dict[str, int]:
        value = self._pop(name)
        if not isinstance(value, dict) or not all(map(_is_text, value)):
            raise self._wrong(name)
        if not all(type(n) is int and 0 <= n <= SIZE_MAX for n in value.values()):
            raise self._wrong(name)
        return dict(value)

    def group(self) -> dict[str, int]:
        """Volume ids to sequence numbers; absent where there is none."""
        if "group" not in self._fields:
            return {}
        found = self.numbers("group")
        if not 2 <= len(found) <= GROUP_VOLUMES_MAX or not all(map(_is_number, found)):
            raise self._wrong("group")
        return found

    def root(self, name: str) -> Root:
        value = self.text(name)
        if len(value) != 2 * DIGEST_BYTES or not set(value) <= set("0123456789abcdef"):
            raise self._wrong(name)
        return Root.fromhex(value)

    def end(self) -> None:
        if self._fields:
            raise CorruptionError(f"{self._what} record: {sorted(self._fields)} are not known")


def _is_text(value: object) -> bool:
    """Whether it is a string that UTF-8 can encode: without lone surrogates."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _is_number(text: str) -> bool:
    """Decimal digits as `str` writes them."""
    return text.isascii() and text.isdecimal() and str(int(text)) == text


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """One snapshot of one volume; never changed once it is stored."""

    volume_id: int
    seq: int
    parent: int | None  # seq of the snapshot before it
    root: Root  # 64 hexadecimal digits in JSON
    time_ns: int  # since the epoch
    consistency: str  # "crash" or "fuzzy"
    reason: str
    files: int
    bytes: int  # logical bytes of all files
    new_bytes: int  # plain bytes of chunks that were not in the store before
    stored_bytes: int  # encoded bytes of new chunks and nodes
    freeze_ms: float
    capture_ms: float
    cause: str = ""  # why it is fuzzy, or what it lacks
    group: dict[str, int] = field(default_factory=dict)  # volume id to seq at the same instant

    @property
    def id(self) -> SnapshotId:
        """Its key in the store."""
        return SnapshotId(self.volume_id, self.seq)

    @property
    def group_id(self) -> str:
        """Id of the instant that volumes captured together share; "" for a volume alone."""
        return chunk_digest(_encode(dict(self.group))).hex()[:GROUP_ID_DIGITS] if self.group else ""

    def encode(self) -> Encoded:
        """Canonical JSON; InvalidInputError when a field does not read back."""
        fields = {**asdict(self), "root": self.root.hex(), "freeze_ms": float(self.freeze_ms)}
        fields["capture_ms"] = float(self.capture_ms)
        if not self.group:
            del fields["group"]
        return _checked(fields, "snapshot")

    @classmethod
    def decode(cls, encoded: Encoded) -> SnapshotRecord:
        """The record, or CorruptionError."""
        f = _Fields(_decode(encoded, "snapshot"), "snapshot")
        record = cls(
            volume_id=f.number("volume_id"),
            seq=f.number("seq"),
            parent=f.optional_number("parent"),
            root=f.root("root"),
            time_ns=f.number("time_ns"),
            consistency=f.text("consistency"),
            reason=f.text("reason"),
            files=f.number("files"),
            bytes=f.number("bytes"),
            new_bytes=f.number("new_bytes"),
            stored_bytes=f.number("stored_bytes"),
            freeze_ms=f.real("freeze_ms"),
            capture_ms=f.real("capture_ms"),
            cause=f.text("cause"),
            group=f.group(),
        )
        f.end()
        if record.group and record.group.get(str(record.volume_id)) != record.seq:
            raise CorruptionError("snapshot record: its group does not name it")
        if record.consistency not in CONSISTENCIES:
            raise CorruptionError(f"snapshot record: consistency {record.consistency!r}")
        return record


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """One volume: its state that outlives the daemon."""

    id: int
    name: str
    created_ns: int
    options: dict[str, str] = field(default_factory=dict)
    head: int | None = None  # seq of the newest snapshot
    next_seq: int = 1
    next_link_id: int = 1
    mounts: dict[str, int] = field(default_factory=dict)  # mount id to count
    boot_id: str = ""  # of the boot that mounted it last
    clean: bool = True  # whether the live directory equals the head
    verified_seq: int | None = None
    removed_ns: int | None = None  # when it went to the trash
    live_id: str = ""  # "device:inode" of it where it is not on the store's disk

    def encode(self) -> bytes:
        """Canonical JSON; InvalidInputError when a field does not read back."""
        return _checked(asdict(self), "volume")

    @classmethod
    def decode(cls, encoded: bytes) -> VolumeRecord:
        """The record, or CorruptionError."""
        f = _Fields(_decode(encoded, "volume"), "volume")
        record = cls(
            id=f.number("id"),
            name=f.text("name"),
            created_ns=f.number("created_ns"),
            options=f.texts("options"),
            head=f.optional_number("head"),
            next_seq=f.number("next_seq"),
            next_link_id=f.number("next_link_id"),
            mounts=f.numbers("mounts"),
            boot_id=f.text("boot_id"),
            clean=f.flag("clean"),
            verified_seq=f.optional_number("verified_seq"),
            removed_ns=f.optional_number("removed_ns"),
            live_id=f.text("live_id"),
        )
        f.end()
        return record


def _checked(fields: dict[str, object], what: str) -> bytes:
    """The encoded record; one that would not decode is refused before it is stored."""
    try:
        encoded = _encode(fields)
        if what == "snapshot":
            SnapshotRecord.decode(encoded)
        else:
            VolumeRecord.decode(encoded)
    except (CorruptionError, ValueError, TypeError) as error:
        raise InvalidInputError(f"the {what} record cannot be stored: {error}") from None
    return encoded


class IndexRecord(Struct, frozen=True, gc=False):
    """What a live inode looked like when its content was last captured.

    A structure for the reason that `Entry` is one.
    """

    kind: int  # a `Kind`
    size: int  # bytes
    mtime_ns: int
    ctime_ns: int
    seen_ns: int  # clock when it was looked at: a younger timestamp proves nothing
    link_id: int = 0
    content: bytes = EMPTY  # root of its file tree
    parent_ino: int = 0
    name: bytes = b""  # in the parent directory

    def encode(self) -> bytes:
        """Packed form; InvalidInputError when a field is out of its range."""
        if len(self.content) != DIGEST_BYTES or len(self.name) > NAME_BYTES_MAX:
            raise InvalidInputError("index record: content or name has a wrong length")
        if self.kind >= INDEX_WIDE:
            raise InvalidInputError(f"index record: kind {self.kind} is not below {INDEX_WIDE}")
        kind, mtime, ctime, more = self.kind, self.mtime_ns, self.ctime_ns, b""
        if mtime not in times.NARROW or ctime not in times.NARROW:
            (mtime, first), (ctime, second) = times.split(mtime), times.split(ctime)
            kind, more = kind | INDEX_WIDE, INDEX_NANOSECONDS.pack(first, second)
        try:
            fixed = INDEX.pack(
                kind, self.size, mtime, ctime, self.seen_ns,
                self.link_id, self.parent_ino, self.content,
            )  # fmt: skip
        except struct.error as error:
            raise InvalidInputError(f"index record: {error}") from None
        return fixed + more + self.name

    @classmethod
    def decode(cls, encoded: bytes) -> IndexRecord:
        """The record, or CorruptionError."""
        try:
            kind, size, mtime_ns, ctime_ns, seen_ns, link_id, parent, content = INDEX.unpack_from(
                encoded
            )
            position = INDEX.size
            if kind & INDEX_WIDE:
                first, second = INDEX_NANOSECONDS.unpack_from(encoded, position)
                position += INDEX_NANOSECONDS.size
                kind ^= INDEX_WIDE
                mtime_ns, ctime_ns = times.joined(mtime_ns, first), times.joined(ctime_ns, second)
                if mtime_ns in times.NARROW and ctime_ns in times.NARROW:
                    raise CorruptionError("index record: its times need no nanoseconds beside them")
        except struct.error:
            raise CorruptionError(f"index record of {len(encoded)} bytes") from None
        name = encoded[position:]
        if len(name) > NAME_BYTES_MAX:
            raise CorruptionError(f"index record of {len(encoded)} bytes")
        return cls(kind, size, mtime_ns, ctime_ns, seen_ns, link_id, content, parent, name)
