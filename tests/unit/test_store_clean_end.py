"""After a clean end an opening spares the largest table; what it did not see is seen later."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from diffkeeper.errors import CorruptionError
from diffkeeper.format import chunk
from diffkeeper.hashing import chunk_digest
from diffkeeper.space.maintenance import Maintenance
from diffkeeper.store import page_check, tables
from diffkeeper.store.batch import ObjectMap
from diffkeeper.store.store import Batch, Store

OBJECTS = 6_000
PAGE = 4096
LEAF, OVERFLOW = 2, 4  # flags of a page
BIG = 1  # flag of an entry whose value is in overflow pages


def commit(store: Store, numbers: range) -> None:
    batch = Batch(chunks=ObjectMap())
    for number in numbers:
        plain = b"%d" % number
        batch.chunks[chunk_digest(plain)] = chunk.encode(plain, None)
    store.commit(batch)


def merge(store: Store) -> None:
    while not store.repack.merge():
        pass


def look_at_the_rest(store: Store) -> None:
    for _ in store.repack.check_pack_index():
        pass


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A store that was closed with dozens of pages of places, all of them looked at."""
    where = str(tmp_path / "store")
    store = Store.open(where, reserve_bytes=0)
    commit(store, range(OBJECTS))
    merge(store)
    store.close()
    return where


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the pages that were looked at since."""
    numbers: list[int] = []
    read = page_check._Checker._read

    def counted(checker: page_check._Checker, number: int, count: int = 1) -> bytes:
        numbers.append(number)
        return read(checker, number, count)

    monkeypatch.setattr(page_check._Checker, "_read", counted)
    return numbers


@pytest.fixture
def leaves(path: str, looked_at: list[int]) -> set[int]:
    """The pages of the table's leaves."""
    assert page_check.check_leaves(f"{path}/data.mdb", tables.PLACES.name, None, 1 << 30) is None
    seen = set(looked_at)
    looked_at.clear()
    page_check.check(f"{path}/data.mdb", but_leaves_of=tables.PLACES.name)
    spared = seen - set(looked_at)
    looked_at.clear()
    assert len(spared) > OBJECTS * 26 // 4096
    return spared


def spoil(path: str, number: int) -> None:
    with open(f"{path}/data.mdb", "r+b") as file:
        file.seek(number * 4096)
        head = bytearray(file.read(16))
        assert head[10] == LEAF
        head[0] ^= 1  # it is another page's number
        file.seek(number * 4096)
        file.write(head)


def test_an_opening_looks_at_no_place(path: str, looked_at: list[int], leaves: set[int]) -> None:
    store = Store.open(path, reserve_bytes=0)
    assert not leaves & set(looked_at)
    assert not os.path.exists(f"{path}/ended")
    Maintenance(store).run_all()
    assert leaves <= set(looked_at)
    store.close()
    assert os.path.exists(f"{path}/ended")


def test_an_opening_after_a_death_looks_at_all(
    path: str, looked_at: list[int], leaves: set[int]
) -> None:
    os.unlink(f"{path}/ended")
    store = Store.open(path, reserve_bytes=0)
    assert leaves <= set(looked_at)
    store.close()


def test_a_note_of_another_transaction_is_none(
    path: str, looked_at: list[int], leaves: set[int]
) -> None:
    note = Path(path, "ended")
    stale = note.read_bytes()
    store = Store.open(path, reserve_bytes=0)
    look_at_the_rest(store)
    commit(store, range(OBJECTS, OBJECTS + 1))
    store.close()
    for content in (stale, b"", b"nonsense\n", b"9" * 100):
        note.write_bytes(content)
        looked_at.clear()
        Store.open(path, reserve_bytes=0).close()
        assert len(leaves & set(looked_at)) > len(leaves) // 2


def test_what_was_not_looked_at_is_no_clean_end(path: str, leaves: set[int]) -> None:
    Store.open(path, reserve_bytes=0).close()
    assert not os.path.exists(f"{path}/ended")
    spoil(path, min(leaves))
    with pytest.raises(CorruptionError, match=f"page {min(leaves)} is not the page"):
        Store.open(path)


def test_nothing_is_written_beside_a_damaged_page(path: str, leaves: set[int]) -> None:
    spoil(path, max(leaves))
    store = Store.open(path, reserve_bytes=0)
    commit(store, range(OBJECTS, OBJECTS + 5))
    before = page_check.transaction(f"{path}/data.mdb")
    for _ in range(2):
        with pytest.raises(CorruptionError, match=f"page {max(leaves)} is not the page"):
            merge(store)
        with pytest.raises(CorruptionError, match=f"page {max(leaves)} is not the page"):
            Maintenance(store).run_all()
    assert page_check.transaction(f"{path}/data.mdb") == before
    store.close()
    with pytest.raises(CorruptionError, match=f"page {max(leaves)} is not the page"):
        Store.open(path)


def test_a_place_in_the_pages_of_a_pack_is_damage(path: str, leaves: set[int]) -> None:
    """Removing it would free them, and the next commit would overwrite the pack."""
    data = Path(path, "data.mdb")
    raw = bytearray(data.read_bytes())
    pack = next(at for at in range(0, len(raw), PAGE) if raw[at + 10] == OVERFLOW)
    leaf = min(leaves) * PAGE
    entry = leaf + struct.unpack_from("<H", raw, leaf + 16)[0]
    length = struct.unpack_from("<I", raw, pack + 12)[0] * PAGE - 16
    key_bytes = struct.unpack_from("<H", raw, entry + 6)[0]
    struct.pack_into("<IH", raw, entry, length, BIG)
    struct.pack_into("<Q", raw, entry + 8 + key_bytes, pack // PAGE)
    data.write_bytes(raw)
    store = Store.open(path, reserve_bytes=0)
    with pytest.raises(CorruptionError, match=f"page {min(leaves)} has a long value"):
        look_at_the_rest(store)
    store.close()
    with pytest.raises(CorruptionError, match=f"shares page {pack // PAGE} with something else"):
        Store.open(path)


def test_the_rest_is_looked_at_in_parts(path: str, looked_at: list[int], leaves: set[int]) -> None:
    low: bytes | None = b""
    seen: list[int] = []
    while low is not None:
        looked_at.clear()
        low = page_check.check_leaves(f"{path}/data.mdb", tables.PLACES.name, low, 7)
        part = leaves & set(looked_at)
        assert 0 < len(part) <= 7
        seen += part
    assert sorted(seen) == sorted(leaves)


def test_a_note_that_cannot_be_written_is_none(path: str) -> None:
    store = Store.open(path, reserve_bytes=0)
    look_at_the_rest(store)
    os.mkdir(f"{path}/ended.partial")  # where the note would be written first
    store.close()
    os.rmdir(f"{path}/ended.partial")
    assert not os.path.exists(f"{path}/ended")
    Store.open(path, reserve_bytes=0).close()
