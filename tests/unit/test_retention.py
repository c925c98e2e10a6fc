"""Retention on a real store, with the clock of the test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from diffkeeper import clock, failpoint, limits
from diffkeeper.errors import ConflictError, NotFoundError
from diffkeeper.history import retention as retention_module
from diffkeeper.history.references import parse_reference
from diffkeeper.history.retention import RETENTION_CPU_FRACTION_MAX, Retention
from diffkeeper.history.snapshots import History
from diffkeeper.service.history_service import RETENTION_TURN_SECONDS
from diffkeeper.volumes.retention_policy import plan
from diffkeeper.volumes.retention_tiers import parse_retention
from tests.support.histories import DAY, new, seqs, take

if TYPE_CHECKING:
    from diffkeeper.store.store import Store

SECOND = 1_000_000_000
DEFAULT = parse_retention("10m:all,2h:1m,2d:1h,30d:1d")


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 1_795_341_600.0

    def now_ns(self) -> int:
        return round(self.seconds * 1e9)

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(clock, "now_ns", made.now_ns)
    monkeypatch.setattr(clock, "monotonic", made.monotonic)
    return made


def test_sweeps_reach_a_constant_number(store: Store, time: Time) -> None:
    """Four days of a snapshot a minute, swept now and then: as many on the last as on the third."""
    volume, idle = new(store, "v"), new(store, "idle")
    take(idle)
    retention = Retention(store, DEFAULT, clock.now_ns)
    counts = []
    for turn in range(4 * DAY // 60):
        take(volume)
        if turn % 5 == 0:
            retention.sweep([volume, idle])
        if turn % (DAY // 60) == 0:
            counts.append(len(seqs(store, volume)))
        time.seconds += 60
    retention.sweep([volume, idle])
    left = seqs(store, volume)
    counts.append(len(left))
    assert counts[-1] - counts[-2] <= 2, counts
    assert len(left) < 260
    assert volume.state.record.next_seq - 1 - (volume.status.forgotten or 0) == len(left)
    assert seqs(store, idle) == [1]
    assert not volume.status.troubles.texts()
    fresh = Retention(store, DEFAULT, clock.now_ns)
    volume.status.count_forgotten(None)
    assert fresh.prune(volume) == ([], len(left)), "a new daemon finds nothing to do"
    assert volume.status.forgotten == volume.state.record.next_seq - 1 - len(left)


def test_nothing_goes_where_all_is_kept(store: Store, time: Time) -> None:
    volume = new(store, "v", retention="all")
    for _ in range(50):
        take(volume)
        time.seconds += DAY
    assert Retention(store, DEFAULT, clock.now_ns).prune(volume) == ([], 50)
    assert len(seqs(store, volume)) == 50


def test_tags_keep_and_never_move(store: Store, time: Time) -> None:
    volume = new(store, "v")
    for _ in range(100):
        take(volume)
        time.seconds += 1
    history, retention = History(store), Retention(store, DEFAULT, clock.now_ns)
    record = volume.state.record
    retention.tag(volume, store.snapshot(record.id, 30), "good")
    retention.tag(volume, store.snapshot(record.id, 30), "good")
    with pytest.raises(ConflictError, match="untag v good"):
        retention.tag(volume, store.snapshot(record.id, 31), "good")
    time.seconds += 40 * DAY
    take(volume)
    planned, left = retention.prune(volume, dry_run=True)
    assert len(seqs(store, volume)) == 101
    assert (30 in planned, left) == (False, 101 - len(planned))
    retention.prune(volume)
    assert seqs(store, volume) == [30, 100, 101]
    assert history.resolve(record, parse_reference("good")).seq == 30
    with pytest.raises(ConflictError, match="v@30 is tagged good"):
        retention.forget(volume, [30])
    with pytest.raises(NotFoundError, match="it was forgotten"):
        history.resolve(volume.state.record, parse_reference("31"))
    assert retention.untag(volume, "good") == 30
    with pytest.raises(NotFoundError, match="no tag"):
        retention.untag(volume, "good")
    assert retention.prune(volume) == ([30], 2)


def test_forget_is_all_or_none(store: Store, time: Time) -> None:
    volume = new(store, "v")
    for consistency in ("crash", "crash", "crash", "fuzzy", "fuzzy"):
        take(volume, consistency)
        time.seconds += 1
    retention = Retention(store, DEFAULT, clock.now_ns)
    for bad, why in ((5, "the newest snapshot"), (3, "the newest crash-consistent")):
        with pytest.raises(ConflictError, match=why):
            retention.forget(volume, [1, bad])
    assert seqs(store, volume) == [1, 2, 3, 4, 5]
    retention.forget(volume, [4, 1, 1])
    retention.forget(volume, [4])
    assert seqs(store, volume) == [2, 3, 5]
    assert volume.status.forgotten == 2


def test_a_tag_keeps_the_instant_of_a_group(store: Store, time: Time) -> None:
    data, log = new(store, "data"), new(store, "log")
    d, g = str(data.state.record.id), str(log.state.record.id)
    for seq in range(1, 21):
        take(data, group={d: seq, g: seq})
        take(log, group={d: seq, g: seq})
        time.seconds += 1
    retention = Retention(store, DEFAULT, clock.now_ns)
    retention.tag(data, store.snapshot(data.state.record.id, 7), "good")
    time.seconds += 3600
    take(log)
    retention.prune(log)
    assert 7 in seqs(store, log)
    with pytest.raises(ConflictError, match="instant that a tag keeps: good"):
        retention.forget(log, [7])
    assert {
        m.snapshot.seq for m in History(store).group(data.state.record, parse_reference("good"))
    } == {7}
    retention.untag(data, "good")
    retention.prune(log)
    assert 7 not in seqs(store, log)
    with pytest.raises(NotFoundError, match="was forgotten"):
        History(store).group(data.state.record, parse_reference("7"))


def test_a_thinning_can_be_interrupted(store: Store, time: Time) -> None:
    """A thinning that fails half way goes on later, in transactions of bounded size."""
    volume = new(store, "v")
    count = 3 * limits.FORGET_BATCH_MAX
    for _ in range(count):
        take(volume)
        time.seconds += 0.1
    time.seconds += DAY
    take(volume)
    retention = Retention(store, DEFAULT, clock.now_ns)
    failpoint.arm("forget.before_commit=error:2")
    with pytest.raises(failpoint.FailpointError):
        retention.prune(volume)
    assert len(seqs(store, volume)) == count + 1 - limits.FORGET_BATCH_MAX
    retention.prune(volume)
    left = seqs(store, volume)
    assert left[-2:] == [count, count + 1]
    assert len(left) < 10
    assert volume.status.forgotten == count + 1 - len(left)


def test_a_long_history_is_thinned_in_parts(
    store: Store, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the same end as at once, and a dry run says so."""
    monkeypatch.setattr("diffkeeper.history.retention.RETENTION_READ_MAX", 7)
    volume = new(store, "v")
    for number in range(200):
        take(volume, "fuzzy" if number % 3 else "crash")
        time.seconds += 11
    time.seconds += 3 * 3600
    planned, left = Retention(store, DEFAULT, clock.now_ns).prune(volume, dry_run=True)
    assert len(seqs(store, volume)) == 200
    found, stay = Retention(store, DEFAULT, clock.now_ns).prune(volume)
    assert (sorted(found), stay) == (planned, left)
    assert len(seqs(store, volume)) == stay < 10
    assert Retention(store, DEFAULT, clock.now_ns).prune(volume) == ([], stay)


def test_long_plans_take_a_share_of_a_core(
    store: Store, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However short the shortest step is: here each plan takes as long as one of a long history."""
    volume, cost, spent = new(store, "v", retention="1h:1s"), 4.0, 0.0

    def slow(*facts: Any) -> list[int]:
        nonlocal spent
        spent += cost
        time.seconds += cost
        return plan(*facts)

    monkeypatch.setattr(retention_module, "plan", slow)
    monkeypatch.setattr(clock, "thread_cpu", lambda: spent)
    retention = Retention(store, DEFAULT, clock.now_ns)
    began = time.seconds
    while time.seconds < began + 3600:
        take(volume)
        retention.sweep([volume])
        time.seconds += RETENTION_TURN_SECONDS
    share = RETENTION_CPU_FRACTION_MAX
    assert 3600 * share / 2 < spent <= 3600 * share + cost


@pytest.mark.parametrize(
    ("reference", "seq"),
    [
        (None, 4), ("latest", 4), ("5", 5), ("0" * 60 + "0003", 3), ("-10s", 4), ("-25s", 2),
        ("2026-11-22T10:00:20", 3), ("2026-11-22T10:00", 1), ("2026-11-22T11:00:05+01:00", 1),
        ("2026-11-23", 4), ("2026-11-22T10:00:20.0000005", 3),
    ],
)  # fmt: skip
def test_references(store: Store, time: Time, reference: str | None, seq: int) -> None:
    """Snapshots at 10:00:00, :10, :20, :30 and a fuzzy one at :40; it is 10:00:40."""
    volume = new(store, "v")
    for _ in range(4):
        take(volume)
        time.seconds += 10
    take(volume, "fuzzy")
    found = None if reference is None else parse_reference(reference)
    assert History(store).resolve(volume.state.record, found).seq == seq


@pytest.mark.parametrize("reference", ["2026-11-22T09:59:59", "-1h", "6", "unknown", "f" * 64])
def test_references_to_nothing(store: Store, time: Time, reference: str) -> None:
    volume = new(store, "v")
    take(volume)
    with pytest.raises(NotFoundError):
        History(store).resolve(volume.state.record, parse_reference(reference))
