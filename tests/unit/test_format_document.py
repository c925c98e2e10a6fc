"""FORMAT.md says what the code does: constants, offsets, fields, tables and example bytes."""

from __future__ import annotations

import dataclasses
import re
import struct
from importlib import resources
from pathlib import Path

from msgspec import structs

from diffkeeper import hashing, limits
from diffkeeper.format import (
    archive,
    chunk,
    dirnode,
    entry,
    filetree,
    ids,
    node,
    pack,
    records,
    root,
    xattrs,
)
from diffkeeper.store import tables

TEXT = resources.files("diffkeeper.format").joinpath("FORMAT.md").read_text(encoding="utf-8")
CODES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i64": "q", "digest": "32s"}

ENTRY = entry.Entry(
    entry.Kind.FILE,
    mode=0o640,
    uid=1000,
    gid=100,
    mtime_ns=-1,
    size=5,
    content=hashing.chunk_digest(b"hello"),
    chunk_bits=16,
    sparse=True,
)
FAR_NS = 15_032_385_535 * 10**9 + 1  # in 2446, the last year of ext4
LINK = entry.Entry(entry.Kind.LINK, link_id=258)
DIRECTORY = entry.Entry(entry.Kind.DIRECTORY, mode=0o755, content=bytes(31) + b"\1")
INDEX = records.IndexRecord(1, 5, 2, 3, 4, 6, ENTRY.content, 7, b"name")
SNAPSHOT = records.SnapshotRecord(
    3,
    2,
    1,
    ids.Root.fromhex("ab" * 32),
    10**18,
    "fuzzy",
    "manual",
    4,
    5,
    6,
    7,
    0.5,
    12.0,
    "no freezer",
)
GROUPED = dataclasses.replace(SNAPSHOT, group={"3": 2, "12": 7})
VOLUME = records.VolumeRecord(3, "pg", 1, {"interval": "1s"}, 2, 3, 4, {"a": 1}, "b", False)


def examples() -> dict[str, bytes]:
    """Name of every example in the document and the bytes that the code makes of it."""
    refs = [bytes(31) + b"\1", chunk.HOLE, bytes(31) + b"\2"]
    children = [dirnode.NO_CHILD] * 15 + [(bytes(31) + b"\1", 65)]
    file_nodes: list[bytes] = []

    def put(encoded: bytes) -> bytes:
        file_nodes.append(encoded)
        return hashing.node_digest(encoded)

    filetree.build(refs, 3, put)
    return {
        "stored-raw": chunk.encode(b"hello", None),
        "entry-file": entry.encode_entry(ENTRY),
        "entry-far": entry.encode_entry(structs.replace(ENTRY, mtime_ns=FAR_NS)),
        "entry-link": entry.encode_entry(LINK),
        "node-file": file_nodes[0],
        "node-leaf": dirnode.encode_leaf({b"a": entry.encode_entry(LINK)}),
        "node-inner": dirnode.encode_inner(children),
        "node-xattrs": xattrs.encode({b"user.a": b"1"}),
        "node-root": root.encode_root(DIRECTORY, entry.EMPTY),
        "digest-chunk": hashing.chunk_digest(b"hello"),
        "digest-node": hashing.node_digest(b"hello"),
        "pack": packed(),
        "record-index": INDEX.encode(),
        "record-index-far": structs.replace(INDEX, mtime_ns=FAR_NS).encode(),
        "record-snapshot": SNAPSHOT.encode(),
        "record-snapshot-of-a-group": GROUPED.encode(),
        "record-volume": VOLUME.encode(),
    }


def packed() -> bytes:
    """A pack of a chunk, and of another one as a delta against it."""
    builder = pack.Builder(None)
    base = hashing.chunk_digest(b"hello")
    builder.add(ids.ObjectId.chunk(base), b"hello")
    delta = pack.xor(b"hallo", b"hello")
    builder.add_delta(ids.ObjectId.chunk(hashing.chunk_digest(b"hallo")), delta, base)
    return pack.encode(builder.finish())


def section(title: str) -> str:
    """The text below a heading (or a line that ends in a colon), up to the next one."""
    match = re.search(rf"^(?:#+ )?{re.escape(title)}:?$\n", TEXT, re.MULTILINE)
    assert match, f"FORMAT.md has no section {title!r}"
    rest = TEXT[match.end() :]
    end = re.search(r"^#+ |^[A-Z]\w+:$", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(title: str, first_column: str) -> list[list[str]]:
    """Cells of the table in a section whose first column has this heading."""
    found: list[list[str]] = []
    inside = False
    for line in section(title).splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] == first_column:
            inside = True
        elif inside and not cells[0].startswith("---"):
            found.append(cells)
    assert found, f"FORMAT.md has no table {first_column!r} in {title!r}"
    return found


def layout(title: str) -> tuple[str, list[str]]:
    """(struct format, field names) of the fixed rows of an offset table, offsets checked."""
    codes, fields = "<", []
    start = int(rows(title, "Offset")[0][0])
    for offset, size, kind, field in rows(title, "Offset"):
        if kind not in CODES:
            if offset.isdigit():
                assert int(offset) == start + struct.calcsize(codes), (title, field)
            break
        assert int(offset) == start + struct.calcsize(codes), (title, field)
        assert int(size) == struct.calcsize("<" + CODES[kind]), (title, field)
        codes += CODES[kind]
        fields.append(field.partition(":")[0])
    return codes, fields


def test_constants() -> None:
    modules = (limits, hashing, node, pack, tables, records, archive)
    sources = {name: value for module in modules for name, value in vars(module).items()}
    listed = {cells[0]: int(cells[1]) for cells in rows("Constants", "Constant")}
    assert listed == {name: sources[name] for name in listed}
    encoded = {"NODE_BYTES_MAX", "RECORD_BYTES_MAX", "FILE_NODE_FANOUT", "FORMAT_VERSION"}
    assert encoded <= listed.keys()
    assert f"at most {entry.CHUNK_BITS_MAX}." in section("Entry")


def test_node_context() -> None:
    assert f"`{hashing._NODE_CONTEXT}`" in section("Digests").replace("\n", " ")


def test_offset_tables() -> None:
    index_fields = [field.name for field in structs.fields(records.IndexRecord)]
    assert layout("Stored object")[0] == chunk.HEADER.format
    assert layout("Pack")[0] == pack.HEADER.format
    assert layout("Frame of a pack")[0] == pack.FRAME.format
    assert layout("Entry") == (
        entry.FIXED.format,
        ["kind", "flags", "chunk_bits", "mode", "uid", "gid", "mtime_ns", "size"],
    )
    assert layout("File node") == (filetree.SHAPE.format, ["level", "count"])
    assert layout("Directory leaf")[0] == dirnode.COUNT.format
    assert layout("Inner directory node") == (dirnode.COUNT.format, ["bitmap"])
    assert layout("Child") == (dirnode.CHILD.format, ["digest", "entries"])
    assert layout("Xattr node")[0] == xattrs.COUNT.format
    assert layout("Attribute")[0] == xattrs.ITEM.format
    assert layout("IndexRecord")[0] == records.INDEX.format
    assert {*layout("IndexRecord")[1], "name"} == set(index_fields)


def test_codes() -> None:
    kinds = {int(value): name for value, name, _ in rows("Entry", "Kind")}
    assert kinds == {kind.value: kind.name for kind in entry.Kind}
    flags = {name: int(value) for value, name, _ in rows("Entry", "Flag")}
    assert flags == {n: v for n, v in vars(entry).items() if n.startswith("FLAG_")}
    flagged = {name: int(value) for value, name, _ in rows("Pack", "Flag")}
    assert flagged == {n: v for n, v in vars(pack).items() if n.startswith("FLAG_")}
    stored = {name: int(value) for value, name, _ in rows("Stored object", "Kind")}
    assert stored == {n: v for n, v in vars(chunk).items() if n.startswith("KIND_")}
    types = {int(value): name for value, name in rows("Nodes", "Type")}
    assert types == {kind.value: kind.name for kind in node.NodeType}


def test_archive() -> None:
    places = [(int(cells[0]), int(cells[1])) for cells in rows("Preface", "Offset")]
    assert places == [(0, 8), (8, 2), (10, 2)]
    assert archive.PREFACE.format == "<8sHH"
    assert f"`{archive.ARCHIVE_MAGIC.decode()}`" in section("Preface")
    assert layout("Frame")[0] == archive.FRAME.format
    assert layout("Trailer")[0] == archive.TRAILER.format
    kinds = {int(cells[0]): (cells[1], int(cells[3])) for cells in rows("Frame", "Frame kind")}
    assert kinds == {k.value: (k.name, archive.PAYLOAD_BYTES_MAX[k]) for k in archive.FrameKind}


def test_record_fields_in_order() -> None:
    for record in (records.SnapshotRecord, records.VolumeRecord):
        listed = [cells[0] for cells in rows(record.__name__, "Field")]
        assert listed == [field.name for field in dataclasses.fields(record)]


def test_tables() -> None:
    listed = [tuple(cells) for cells in rows("Tables", "Table")]
    assert listed == [(table.name, table.key, table.value) for table in tables.TABLES]
    names = section("Tables").partition("`meta` has")[2]
    for name in (*tables.TOTAL_NAMES, tables.META_FORMAT.decode(), "next_volume_id", "places_upto"):
        assert f"`{name}`" in names
    assert all(table.invariants and table.repaired_by for table in tables.TABLES)


def test_examples_are_what_the_code_writes() -> None:
    block = section("Examples").split("```")[1].strip().splitlines()
    listed = {line.split()[0]: bytes.fromhex(line.split()[1]) for line in block}
    assert listed == examples()


def test_examples_decode() -> None:
    given = examples()
    assert chunk.decode(given["stored-raw"], 5) == b"hello"
    directory = pack.PackDirectory(given["pack"])
    assert directory.base_digest(1) == directory.digest(0) == hashing.chunk_digest(b"hello")
    assert entry.decode_entry(given["entry-file"]) == ENTRY
    assert entry.decode_entry(given["entry-link"]) == LINK
    assert filetree.decode(given["node-file"])[0] == 1
    assert dirnode.decode_leaf(given["node-leaf"]) == {b"a": given["entry-link"]}
    assert dirnode.decode_inner(given["node-inner"])[15][1] == 65
    assert xattrs.decode(given["node-xattrs"]) == {b"user.a": b"1"}
    assert root.decode_root(given["node-root"]) == (DIRECTORY, entry.EMPTY)
    assert records.IndexRecord.decode(given["record-index"]) == INDEX
    assert records.SnapshotRecord.decode(given["record-snapshot"]) == SNAPSHOT
    assert records.SnapshotRecord.decode(given["record-snapshot-of-a-group"]) == GROUPED
    assert records.VolumeRecord.decode(given["record-volume"]) == VOLUME


def test_the_document_stands_beside_the_code() -> None:
    assert Path(chunk.__file__).with_name("FORMAT.md").is_file()
