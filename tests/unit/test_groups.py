"""Volumes that are written together: who belongs together, one commit, what older stores hold."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import lmdb
import pytest

from diffkeeper import clock, limits
from diffkeeper.errors import ConflictError, CorruptionError, InvalidInputError, NotFoundError
from diffkeeper.format.ids import Root
from diffkeeper.format.records import SnapshotRecord, VolumeRecord
from diffkeeper.freeze.writers import Survey, Target, Writers
from diffkeeper.history.references import parse_reference
from diffkeeper.history.snapshots import History
from diffkeeper.service import consistency_groups
from diffkeeper.service.captures import Captures
from diffkeeper.service.consistency_groups import GroupingFacts, bounded, groups
from diffkeeper.service.idle_share import IdleShare
from diffkeeper.snapshot import group_capture
from diffkeeper.snapshot.observation import LostError
from diffkeeper.snapshot.policy import CapturePolicy
from diffkeeper.snapshot.volume_state import Change, VolumeState, commit_together
from diffkeeper.store import tables
from diffkeeper.store.store import Batch, Store
from diffkeeper.volumes.throttle import (
    CAPTURE_RETRY_REST,
    RECENT_CAPTURES,
    STRETCH_SECONDS_MAX,
    Cost,
    Throttle,
)
from tests.support.spanning import GroupRig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from diffkeeper.volumes.volume import Volume


def facts(*pids: int, recorded: tuple[int, ...] = (), apart: bool = False) -> GroupingFacts:
    return GroupingFacts(frozenset(pids), frozenset(recorded), apart)


# Who belongs together


def test_who_shares_a_process_belongs_together() -> None:
    """Also by way of a third one; what is mounted alone, beside or as well, changes nothing."""
    volumes = {
        1: facts(10, 11),
        2: facts(12),
        3: facts(11, 13),
        4: facts(13, 14),
        5: facts(),
        6: facts(15),
    }
    assert groups(volumes) == [[1, 3, 4], [2], [5], [6]]


def test_membership_is_the_same_whatever_the_order() -> None:
    volumes = {n: facts(n, n + 1) for n in range(1, 30)}
    backwards = dict(reversed(volumes.items()))
    assert groups(volumes) == groups(backwards) == [list(range(1, 30))]


def test_what_nobody_writes_to_stays_with_its_last_group() -> None:
    """Whichever of the two recorded it. With writers of its own, it goes its own way."""
    assert groups({1: facts(recorded=(1, 2)), 2: facts()}) == [[1, 2]]
    assert groups({1: facts(), 2: facts(20, recorded=(1, 2))}) == [[1, 2]]
    assert groups({1: facts(10, recorded=(1, 2)), 2: facts(20)}) == [[1], [2]]
    assert groups({1: facts(recorded=(1, 2))}) == [[1]], "the other one is not watched any more"


def test_what_somebody_has_who_writes_nothing_ties_none_that_are_written() -> None:
    """It was in a group with both of them for as long as he might have written."""
    recorded = frozenset((1, 2, 3))
    one, two = GroupingFacts(frozenset((10,)), recorded), GroupingFacts(frozenset((20,)), recorded)
    assert groups({1: one, 2: two, 3: GroupingFacts(recorded=recorded)}) == [[1, 2, 3]]
    still = GroupingFacts(recorded=recorded, still=True)
    assert groups({1: one, 2: two, 3: still}) == [[1], [2], [3]]
    assert groups({1: one, 2: facts(recorded=(1, 2, 3)), 3: still}) == [[1, 2, 3]]


def test_some_volumes_are_captured_apart() -> None:
    assert groups({1: facts(10), 2: facts(10, apart=True), 3: facts(10)}) == [[1, 3], [2]]
    assert groups({1: facts(recorded=(1, 2)), 2: facts(apart=True)}) == [[1], [2]]


class Watched:
    """What the groups are made of, of one volume that is watched."""

    def __init__(self, number: int) -> None:
        self.name = f"volume{number}"
        self.state = SimpleNamespace(record=SimpleNamespace(id=number), head=None)
        self.watched = SimpleNamespace(
            target=Target("8:1", f"/v{number}"),
            policy=CapturePolicy(),
            faulty=False,
            cpu_seconds=0.0,
            frozen_seconds=0.0,
        )
        self.throttle = Throttle(1.0)

    def capture_failed(self, error: Exception, shortest: float, cost: Cost) -> None:
        """It is told."""


def test_groups_are_made_once_for_each_survey(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many volumes ask for theirs."""
    made: list[int] = []

    def counted(facts: Mapping[int, GroupingFacts]) -> list[list[int]]:
        made.append(len(facts))
        return groups(facts)

    monkeypatch.setattr(consistency_groups, "groups", counted)
    volumes = [cast("Volume", Watched(number)) for number in range(100)]
    captures = Captures(Survey(), lambda: volumes, IdleShare())
    found = {t: Writers(pids=(n // 2,)) for n, t in enumerate(captures.targets())}
    for number, volume in enumerate(volumes):
        first = number // 2 * 2
        assert captures.together(volume, found).volumes == tuple(volumes[first : first + 2])
    assert len(captures.groups(found)) == 50
    assert made == [100]
    assert len(captures.together(volumes[0], dict.fromkeys(found, Writers())).volumes) == 1
    assert made == [100, 100]


def test_who_made_a_capture_fail_leaves_its_group_within_the_same_survey(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bad, good = (cast("Volume", Watched(number)) for number in range(2))
    captures = Captures(Survey(), lambda: [bad, good], IdleShare())
    found = dict.fromkeys(captures.targets(), Writers(pids=(1,)))
    assert captures.together(good, found).volumes == (bad, good)

    def failing(*_: object, **__: object) -> None:
        assert bad.watched is not None
        bad.watched.faulty = True
        raise LostError("a test")

    monkeypatch.setattr(group_capture, "capture", failing)
    with pytest.raises(LostError):
        captures.capture(bad, "manual")
    assert captures.together(good, found).volumes == (good,)


def test_a_group_is_bounded() -> None:
    parts = bounded(list(range(2 * limits.GROUP_VOLUMES_MAX + 3)))
    assert [len(part) for part in parts] == [limits.GROUP_VOLUMES_MAX] * 2 + [3]


# Pace


def test_the_interval_is_stretched_by_what_the_whole_group_takes() -> None:
    throttle = Throttle(10.0)
    for _ in range(RECENT_CAPTURES):
        throttle.used(Cost(cpu=0.1, frozen=0.001))
    throttle.adapt(1.0, throttle.needed(limits.CPU_FRACTION_MAX))
    assert throttle.effective == pytest.approx(0.1 / limits.CPU_FRACTION_MAX)
    assert "100 ms of CPU" in throttle.delayed
    throttle.failed(1.0, Cost())
    assert throttle.effective == 2.0
    throttle.adapt(1.0, throttle.needed(limits.CPU_FRACTION_MAX))
    assert throttle.effective == 2.0, "nothing but a capture that succeeds ends the waiting"
    throttle.used(Cost())
    throttle.adapt(10.0, (0.0, ""))
    assert (throttle.effective, throttle.delayed) == (10.0, ""), (
        "alone again, its own interval rules"
    )


def test_more_of_an_idle_core_stretches_less() -> None:
    throttle = Throttle(0.2)
    for _ in range(RECENT_CAPTURES):
        throttle.used(Cost(cpu=0.1))
    throttle.adapt(0.2, throttle.needed(0.25))
    assert throttle.effective == pytest.approx(0.4)
    assert "100 ms of CPU" in throttle.delayed
    throttle.adapt(0.2, throttle.needed(0.5))
    assert (throttle.effective, throttle.delayed) == (0.2, "")


def test_the_interval_is_stretched_by_how_long_writers_stand() -> None:
    throttle = Throttle(1.0)
    for _ in range(RECENT_CAPTURES):
        throttle.used(Cost(cpu=0.01, frozen=0.15))
    throttle.adapt(1.0, throttle.needed(limits.CPU_FRACTION_MAX))
    assert throttle.effective == pytest.approx(0.15 / limits.FREEZE_FRACTION_MAX)
    assert throttle.delayed == "captures hold the writers for 150 ms each"


def test_no_capture_is_too_expensive_for_the_budget() -> None:
    throttle = Throttle(1.0)
    throttle.used(Cost(cpu=1000.0))
    throttle.adapt(1.0, throttle.needed(limits.CPU_FRACTION_MAX))
    assert throttle.effective == STRETCH_SECONDS_MAX, "one alone, such as the first"
    for _ in range(RECENT_CAPTURES - 1):
        throttle.used(Cost(cpu=100.0))
    throttle.used(Cost(cpu=100.0))
    throttle.adapt(1.0, throttle.needed(limits.CPU_FRACTION_MAX))
    assert throttle.effective == pytest.approx(100.0 / limits.CPU_FRACTION_MAX)


def test_a_capture_that_fails_rests_as_it_took() -> None:
    """On a full disk each one reads all of it again."""
    throttle = Throttle(1.0)
    began = clock.monotonic() - 1000.0
    throttle.failed(1.0, Cost(cpu=10.0, elapsed=1000.0))
    throttle.rest(began)
    assert throttle.effective == CAPTURE_RETRY_REST * 1000.0
    assert throttle.due >= began + 1000.0 + throttle.effective, "from its end on"
    throttle.failed(1.0, Cost(cpu=900.0, elapsed=1000.0))
    assert throttle.effective == 900.0 / limits.CPU_FRACTION_MAX
    throttle.used(Cost())
    throttle.adapt(1.0, throttle.needed(limits.CPU_FRACTION_MAX))
    began = throttle.due + 1.0
    throttle.rest(began)
    assert throttle.due == began + 1.0


# Records and commits


def snapshot(volume_id: int, seq: int, together: dict[str, int] | None = None) -> SnapshotRecord:
    return SnapshotRecord(
        volume_id, seq, None, Root.fromhex("ab" * 32), seq, "crash", "manual", 1, 1, 1, 1, 0.0, 1.0,
        "", together or {},
    )  # fmt: skip


def test_a_record_of_a_group_reads_back() -> None:
    record = snapshot(3, 2, {"3": 2, "12": 7})
    assert SnapshotRecord.decode(record.encode()) == record
    assert record.group_id == snapshot(12, 7, {"12": 7, "3": 2}).group_id != ""
    assert record.group_id != snapshot(3, 3, {"3": 3, "12": 7}).group_id
    assert snapshot(3, 2).group_id == ""


@pytest.mark.parametrize(
    "given",
    [
        {"3": 2},
        {"3": 2, "x": 1},
        {"3": 2, "04": 1},
        {"3": 1, "4": 1},
        {"4": 2, "5": 2},
        {"3": 2, "4": -1},
        {"3": 2, **{str(n): 1 for n in range(100, 100 + limits.GROUP_VOLUMES_MAX)}},
    ],
)
def test_a_group_that_no_capture_makes_is_refused(given: dict[str, int]) -> None:
    with pytest.raises(InvalidInputError):
        snapshot(3, 2, given).encode()
    good = snapshot(3, 2, {"3": 2, "9": 9}).encode()
    text = str(given).replace("'", '"').replace(" ", "").encode()
    with pytest.raises(CorruptionError):
        SnapshotRecord.decode(good.replace(b'{"3":2,"9":9}', text))


def test_an_empty_group_is_no_field() -> None:
    """So a record of format version 1 is a record, and still the only encoding of itself."""
    encoded = snapshot(3, 2).encode()
    assert b"group" not in encoded
    assert SnapshotRecord.decode(encoded).group == {}
    with pytest.raises(CorruptionError):
        SnapshotRecord.decode(encoded.replace(b'"new_bytes"', b'"group":{},"new_bytes"'))


def test_a_store_of_version_1_opens_and_is_raised(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    store = Store.open(path, reserve_bytes=0)
    store.commit(Batch(volumes=[VolumeRecord(1, "v", 1, head=2, next_seq=3)]))
    store.commit(Batch(snapshots=[snapshot(1, 1), snapshot(1, 2)]))
    store.close()
    with lmdb.open(path, max_dbs=16) as env, env.begin(write=True) as txn:
        meta = env.open_db(tables.META.database, txn=txn)
        txn.put(tables.META_FORMAT, tables.pack_u64(1), db=meta)
    store = Store.open(path, reserve_bytes=0)
    assert [s.group for s in store.snapshots(1)] == [{}, {}]
    store.close()
    with lmdb.open(path, max_dbs=16) as env, env.begin() as txn:
        found = txn.get(tables.META_FORMAT, db=env.open_db(tables.META.database, txn=txn))
    assert found is not None
    assert tables.unpack_u64(found) == tables.FORMAT_VERSION, "an older release is warned off"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store.open(str(tmp_path / "store"), reserve_bytes=0)
    for number, name in ((1, "data"), (2, "wal"), (3, "other")):
        made.commit(Batch(volumes=[VolumeRecord(number, name, 1)], names_put={name: number}))
    yield made
    made.close()


def states(store: Store) -> list[VolumeState]:
    return [VolumeState(store, record) for record in store.volumes()]


def test_several_volumes_are_committed_together_or_not_at_all(store: Store) -> None:
    data, wal, _ = states(store)
    both = {"1": 1, "2": 1}
    commit_together(
        [
            Change(wal, Batch(), snapshot(2, 1, both)),
            Change(data, Batch(), snapshot(1, 1, both), {"next_link_id": 5}),
        ]
    )
    assert (data.record.head, data.record.next_link_id, wal.record.head) == (1, 5, 1)
    assert [record.head for record in store.volumes()] == [1, 1, None]
    # A second snapshot of the same number is refused, and takes the other one with it.
    with pytest.raises(ConflictError):
        commit_together(
            [
                Change(data, Batch(), snapshot(1, 2)),
                Change(wal, Batch(), snapshot(2, 1)),
            ]
        )
    assert (data.record.head, wal.record.head) == (1, 1)
    assert data.head is not None
    assert data.head.seq == 1
    assert [s.seq for s in store.snapshots(1)] == [1]


def test_the_group_of_a_snapshot(store: Store) -> None:
    data, wal, other = states(store)
    history = History(store)
    commit_together(
        [
            Change(data, Batch(), snapshot(1, 1, {"1": 1, "2": 1})),
            Change(wal, Batch(), snapshot(2, 1, {"1": 1, "2": 1})),
            Change(other, Batch(), snapshot(3, 1)),
        ]
    )
    # Nothing changed in `wal`: it has no snapshot of the later instant.
    commit_together([Change(data, Batch(), snapshot(1, 2, {"1": 2, "2": 1}))])

    def seqs(state: VolumeState, reference: str | None) -> dict[str, int]:
        chosen = None if reference is None else parse_reference(reference)
        found = history.group(state.record, chosen)
        assert len({member.snapshot.members["data"] for member in found}) <= 2
        return {member.volume: member.snapshot.seq for member in found}

    assert seqs(data, "1") == seqs(wal, "1") == {"data": 1, "wal": 1}
    assert seqs(data, None) == seqs(wal, None) == seqs(data, "2") == {"data": 2, "wal": 1}
    with pytest.raises(NotFoundError, match="snapshot 1 of other belongs to no group"):
        history.group(other.record, None)
    view = history.view(snapshot(1, 2, {"1": 2, "2": 1}))
    assert (view.members, len(view.group)) == ({"data": 2, "wal": 1}, 16)


# Captures of several volumes


def test_a_closed_member_is_left_out(tmp_path: Path) -> None:
    """It was unmounted while the capture of its group waited."""
    with GroupRig(tmp_path, ("a", "b"), CapturePolicy()) as volumes:
        members = volumes.members()
        (volumes.live["a"] / "f").write_bytes(b"1")
        volumes.watched.pop("b").close()
        closed, taken = group_capture.capture(members, "manual")
        assert closed is None
        assert taken is not None
        assert taken.group == {}


def test_a_faulty_member_is_named(tmp_path: Path) -> None:
    with GroupRig(tmp_path, ("a", "b"), CapturePolicy()) as volumes:
        volumes.capture()
        (volumes.live["a"] / "f").write_bytes(b"1")
        volumes.live["b"].rmdir()
        with pytest.raises(LostError):
            volumes.capture()
        assert volumes.watched["b"].faulty
        assert not volumes.watched["a"].faulty


def test_a_throttle_is_asked_while_captures_end() -> None:
    """Whoever asks what captures need is not in their thread."""
    throttle = Throttle(1.0)
    ended = threading.Event()

    def captures() -> None:
        while not ended.is_set():
            throttle.used(Cost(1.0, 1.0, 1.0))

    thread = threading.Thread(target=captures)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(20_000):
            throttle.needed(limits.CPU_FRACTION_MAX)
    finally:
        ended.set()
        thread.join()
        sys.setswitchinterval(before)
