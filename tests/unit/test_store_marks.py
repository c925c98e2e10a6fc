"""What a collection remembers: exact, and little for each pack and each snapshot."""

from __future__ import annotations

import random
import tracemalloc
from functools import partial
from typing import TYPE_CHECKING

from diffkeeper.store.marks import Mark, ObjectMarks
from diffkeeper.store.transaction import Transaction
from tests.support import history

if TYPE_CHECKING:
    import pytest

    from diffkeeper.store import tables
    from diffkeeper.store.store import Store

OBJECTS = 40  # in a pack of ordinary chunks


def test_marks_are_those_of_a_set() -> None:
    source = random.Random(5)
    sizes = {number: source.choice([1, 7, 8, 9, 64, 700]) for number in range(1, 400)}
    known = [number for number in sizes if number < 300 and number % 3]
    marks, model = ObjectMarks(), set()
    for turn in range(6_000):
        if turn % 60 == 0:  # packs become known while others mark
            marks.add_packs(known[turn // 60 * 2 : turn // 60 * 2 + 2])
        number, mark = source.choice(list(sizes)), source.choice(list(Mark))
        slot = source.randrange(sizes[number])
        new = (mark, number, slot) not in model
        model.add((mark, number, slot))
        assert marks.put(mark, number, slot, partial(int, sizes[number])) is new
    for mark in Mark:
        for number, size in sizes.items():
            wanted = [slot for slot in range(size) if (mark, number, slot) in model]
            assert marks.slots(mark, number, size) == wanted
            assert [slot for slot in range(size) if marks.has(mark, number, slot)] == wanted


def test_memory_of_a_large_store() -> None:
    packs = 20_000
    tracemalloc.start()
    try:
        marks = ObjectMarks()
        for start in range(1, packs + 1, 500):
            marks.add_packs(list(range(start, start + 500)))
        for number in range(1, packs + 1):
            for mark in Mark:
                marks.put(mark, number, number % OBJECTS, lambda: OBJECTS)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert used / packs < 48


def test_snapshots_are_no_keys_in_memory(store: Store) -> None:
    for seq in range(1, 60):
        history.commit(store, seq, {b"a": b"%d" % seq})
    collector = store.collector()
    for _ in collector.steps():
        pass
    assert collector._upto == {1: 59}
    assert len(collector._marks._others) == 0


def test_commits_wait_for_a_look_at_each_volume_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seq in range(1, 60):
        for volume in (1, 2, 7):
            history.commit(store, seq, {b"a": b"%d" % seq}, volume=volume)
    history.forget(store, 3, 4, 59, volume=2)
    collector = store.collector()
    for _ in collector.steps():
        pass
    looks = 0
    first = Transaction.first

    def counted(txn: Transaction, table: tables.Table, low: bytes) -> object:
        nonlocal looks
        looks += 1
        return first(txn, table, low)

    monkeypatch.setattr(Transaction, "first", counted)
    assert collector._all_marked()
    assert looks == 4
    monkeypatch.undo()
    history.commit(store, 60, {b"a": b"new"}, volume=2)
    assert not collector._all_marked()
