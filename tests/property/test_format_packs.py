"""Packs: what was put in comes out, and any other bytes are a value or CorruptionError."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffkeeper.errors import CorruptionError
from diffkeeper.format import chunk, pack
from diffkeeper.format.ids import ObjectId, ObjectKind
from diffkeeper.hashing import chunk_digest
from diffkeeper.limits import FRAME_BYTES_MAX

plains = st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=40, unique=True)


def id_of(plain: bytes, node: bool) -> ObjectId:
    return ObjectId.of(ObjectKind.NODE if node else ObjectKind.CHUNK, plain)


def made(contents: list[bytes], kinds: list[bool], outside: bytes, level: int | None) -> bytes:
    """A pack: every third object is a delta of the one before it, every seventh of `outside`."""
    builder = pack.Builder(level)
    for number, plain in enumerate(contents):
        node = kinds[number % len(kinds)]
        each = id_of(plain, node)
        if number % 7 == 6:
            delta = pack.xor(plain, outside)
            builder.add_delta(each, delta, chunk_digest(outside))
        elif number % 3 == 2:
            before = contents[number - 1]
            base = id_of(before, kinds[(number - 1) % len(kinds)]).digest
            builder.add_delta(each, pack.xor(plain, before), base)
        else:
            builder.add(each, plain)
    return pack.encode(builder.finish())


def read(raw: bytes, bases: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Digest to plain content, or delta where the base is not among `bases`."""
    directory = pack.PackDirectory(raw)
    found: dict[bytes, bytes] = {}
    for slot, digest in enumerate(directory.digests()):
        content = directory.content(raw, directory.frame(slot))
        piece = directory.piece(slot, content)
        assert len(piece) == directory.lengths[slot]
        base = directory.base_digest(slot)
        found[digest] = pack.xor(piece, bases[base]) if base in bases else piece
    return found


@given(plains, st.lists(st.booleans(), min_size=1, max_size=5), st.binary(min_size=1, max_size=400))
def test_what_goes_in_comes_out(contents: list[bytes], kinds: list[bool], outside: bytes) -> None:
    digests = [id_of(p, kinds[n % len(kinds)]).digest for n, p in enumerate(contents)]
    bases = {**dict(zip(digests, contents, strict=True)), chunk_digest(outside): outside}
    for level in (None, 1):
        raw = made(contents, kinds, outside, level)
        assert read(raw, bases) == dict(zip(digests, contents, strict=True))
        directory = pack.PackDirectory(raw)
        ids = {id_of(p, kinds[n % len(kinds)]) for n, p in enumerate(contents)}
        assert set(directory.ids()) == ids
        nodes = sum(kinds[n % len(kinds)] for n in range(len(contents)))
        assert directory.counts()[0] == len(contents) - nodes
        assert directory.counts()[2] == nodes


@given(st.binary(max_size=300))
def test_any_bytes_are_a_pack_or_corruption(raw: bytes) -> None:
    with contextlib.suppress(CorruptionError):
        read(raw, {})
    with contextlib.suppress(CorruptionError):
        read(bytes([pack.PACK_VERSION]) + raw, {})


@given(plains, st.data())
def test_a_changed_pack_is_a_pack_or_corruption(contents: list[bytes], data: st.DataObject) -> None:
    raw = bytearray(made(contents, [False, True], b"base", 1))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(raw)))
    for changed in (bytes(raw), bytes(raw[:cut])):
        with contextlib.suppress(CorruptionError):
            read(changed, {})


def test_a_bomb_is_refused() -> None:
    length = FRAME_BYTES_MAX + 1
    stored = chunk.encode(bytes(length))
    member = pack.FrameMember(ObjectId.chunk(bytes(31) + b"\1"), length)
    frame = pack.Frame(stored[0], stored[chunk.HEADER_BYTES :], [member])
    with pytest.raises(CorruptionError, match="declares"):
        pack.PackDirectory(pack.encode([frame]))


def test_packs_are_bounded() -> None:
    frames = [pack.frame_of(id_of(b"%d" % n, False), chunk.encode(b"%d" % n)) for n in range(9)]
    packs = list(pack.packs_of(frames, 3 * frames[0].stored_bytes))
    assert [len(each) for each in packs] == [3, 3, 3]
    assert list(pack.packs_of(frames, 1)) == [[frame] for frame in frames]


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_xor_undoes_itself(plain: bytes, base: bytes) -> None:
    assert pack.xor(pack.xor(plain, base), base) == plain
