"""Retention and trash on a real store, while the clock of the test jumps."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from diffkeeper import clock
from diffkeeper.errors import CorruptionError
from diffkeeper.format.ids import Root
from diffkeeper.format.records import SnapshotRecord, VolumeRecord
from diffkeeper.history.retention import Retention
from diffkeeper.history.retention_clock import CLOCK_SAVE_SECONDS, RetentionClock
from diffkeeper.history.trash import Trash
from diffkeeper.service.history_service import RETENTION_TURN_SECONDS
from diffkeeper.snapshot.volume_state import VolumeState
from diffkeeper.store import tables
from diffkeeper.store.store import Batch, Store
from diffkeeper.volumes.layout import Layout
from diffkeeper.volumes.options import parse_options
from diffkeeper.volumes.retention_tiers import parse_retention
from tests.support.histories import DAY, RetainedVolume, seqs, take

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from diffkeeper.volumes.volume import Volume

TIERS = parse_retention("1h:all,1d:1h")
WEEK = 7 * DAY


@dataclass
class Time:
    """A machine's clocks: `passes` moves both, `jumps` the wall clock alone."""

    wall: float = 1_795_341_600.0
    boot: float = 5_000.0

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.boot += seconds

    def jumps(self, seconds: float) -> None:
        self.wall += seconds


class Ageing:
    """What ages in a daemon: clock, retention and trash of one store."""

    def __init__(self, path: Path) -> None:
        self.store = Store.open(str(path / "store"), reserve_bytes=0)
        self.age = RetentionClock(self.store)
        self.retention = Retention(self.store, TIERS, self.age.now_ns)
        self.trash = Trash(self.store, Layout(str(path), ""), WEEK, self.age)
        for record in self.store.volumes():
            if record.removed_ns is not None:
                self.trash.add(record)

    def turn(self) -> int:
        """All that happens by itself in one turn; how many volumes were purged."""
        self.retention.sweep(self.volumes())
        purged = self.trash.purge_due()
        self.trash.measure()
        self.age.save()
        return purged

    def volumes(self) -> list[Volume]:
        found = [r for r in self.store.volumes() if r.removed_ns is None]
        kept = [
            RetainedVolume(VolumeState(self.store, r), options=parse_options(r.options))
            for r in found
        ]
        return cast("list[Volume]", kept)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(clock, "now_ns", lambda: round(made.wall * 1e9))
    monkeypatch.setattr(clock, "boottime_ns", lambda: round(made.boot * 1e9))
    monkeypatch.setattr(clock, "monotonic", lambda: made.boot)
    return made


@pytest.fixture
def daemon(tmp_path: Path, time: Time) -> Iterator[Ageing]:
    """Of a store with a volume of 20 snapshots in as many minutes, and one in the trash."""
    made = Ageing(tmp_path)
    records = [
        VolumeRecord(1, "v", clock.now_ns(), {}),
        VolumeRecord(2, "removed", clock.now_ns(), {}),
    ]
    made.store.commit(Batch(volumes=records, names_put={"v": 1}))
    (gone,) = (v for v in made.volumes() if v.name == "removed")
    take(gone)
    gone.state.commit(Batch(), removed_ns=clock.now_ns())
    made.trash.add(gone.state.record)
    volume = of(made)
    for _ in range(20):
        take(volume)
        time.passes(60)
    made.age.save()
    yield made
    made.store.close()


def of(daemon: Ageing) -> Volume:
    return next(v for v in daemon.volumes() if v.name == "v")


def after(daemon: Ageing, path: Path) -> Ageing:
    """The daemon that follows in the same place; the fixture closes its store."""
    daemon.store.close()
    following = Ageing(path)
    daemon.store = following.store
    return following


def test_a_jump_lets_nothing_go_for_a_day(
    daemon: Ageing, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    assert daemon.turn() == 0
    assert daemon.age.uncounted() == ""
    time.jumps(400 * DAY)
    assert daemon.turn() == 0
    assert seqs(daemon.store, of(daemon)) == list(range(1, 21))
    assert "400d of the clock's time passed unseen" in daemon.age.uncounted()
    assert "age by it in 1d" in daemon.age.uncounted()
    assert daemon.age.unseen_seconds == 400 * DAY
    (told,) = (r for r in caplog.records if r.message == "clock_ahead")
    assert told.levelno == logging.WARNING
    time.passes(DAY - 1)
    assert daemon.turn() == 0
    time.passes(1)
    assert daemon.turn() == 1
    assert seqs(daemon.store, of(daemon)) == [20]
    assert daemon.age.uncounted() == ""
    assert [r.message for r in caplog.records if r.message.startswith("clock_")] == [
        "clock_ahead",
        "clock_counted",
    ]


def test_what_really_passes_counts_all_the_while(daemon: Ageing, time: Time) -> None:
    """Thinning goes on at its pace while a jump waits; later snapshots are not taken for old."""
    time.jumps(400 * DAY)
    assert daemon.turn() == 0
    new = take(of(daemon))
    time.passes(3 * 3_600)
    assert daemon.turn() == 0
    left = seqs(daemon.store, of(daemon))
    assert left[-2:] == [20, new]
    assert 2 <= len(left) <= 4, "the minutes of three hours ago are one an hour"


def test_a_clock_that_is_set_right_again(
    daemon: Ageing, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    time.jumps(5_000 * DAY)
    assert daemon.turn() == 0
    time.passes(30)
    time.jumps(-5_000 * DAY)
    assert daemon.turn() == 0
    assert daemon.age.uncounted() == ""
    assert "clock_set_back" in [r.message for r in caplog.records]
    time.passes(2 * DAY)
    assert daemon.turn() == 0
    assert daemon.age.now_ns() == clock.now_ns()


def test_a_clock_that_goes_back(daemon: Ageing, time: Time) -> None:
    """To 1970, for two hours with a snapshot a minute, and right again: none of them is too old."""
    right = time.wall
    time.jumps(-right)
    volume = of(daemon)
    for _ in range(120):
        take(volume)
        time.passes(60)
        assert daemon.turn() == 0
    left = seqs(daemon.store, volume)
    assert set(range(1, 21)) <= set(left), "what the clock takes for the future stays"
    assert set(range(141 - 60, 141)) <= set(left), "all of the last hour"
    time.jumps(right)
    take(volume)
    assert daemon.turn() == 0
    assert seqs(daemon.store, volume) == [*left, 141]


def test_weeks_away(daemon: Ageing, time: Time, tmp_path: Path) -> None:
    """What fell due while the host was off goes a day after it is on again, restarts or not."""
    assert daemon.turn() == 0
    time.jumps(3 * WEEK)
    time.boot = 10.0
    following = after(daemon, tmp_path)
    assert following.turn() == 0
    assert "20d of the clock's time passed unseen" in following.age.uncounted()
    assert seqs(daemon.store, of(daemon)) == list(range(1, 21))
    for hours in (23, 0.5):
        time.passes(hours * 3_600)
        assert following.turn() == 0
        following = after(following, tmp_path)
        daemon.store = following.store
        assert following.turn() == 0
    time.passes(3_600)
    assert following.turn() == 1
    assert seqs(daemon.store, of(daemon)) == [20]


def test_a_short_restart_is_nothing(daemon: Ageing, time: Time, tmp_path: Path) -> None:
    time.jumps(1_800)
    time.boot = 10.0
    following = after(daemon, tmp_path)
    assert following.age.uncounted() == ""
    assert following.age.now_ns() == clock.now_ns()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_store_of_an_earlier_release(time: Time, tmp_path: Path, damaged: bool) -> None:
    """It has no look stored: its newest record tells when its daemon ran."""
    store = Store.open(str(tmp_path / "store"), reserve_bytes=0)
    seen_ns = round(time.wall * 1e9)
    record = VolumeRecord(1, "removed", seen_ns, {}, head=1, next_seq=2, removed_ns=seen_ns)
    numbers = (seen_ns, "crash", "x", 1, 1, 1, 1, 0.0, 0.0)
    snapshot = SnapshotRecord(1, 1, None, Root(32), *cast("Any", numbers))
    store.commit(Batch(volumes=[record], snapshots=[snapshot]))
    if damaged:
        with store._environment.write() as txn:
            txn.put(tables.SNAPSHOTS, tables.pair_key(1, 1), b"damaged")
        with pytest.raises(CorruptionError):
            next(store.snapshots(1))
    store.close()
    time.jumps(3 * WEEK)
    daemon = Ageing(tmp_path)
    assert daemon.age.unseen_seconds > 2 * WEEK
    assert daemon.trash.purge_due() == 0
    time.passes(DAY)
    assert daemon.trash.purge_due() == (0 if damaged else 1)
    daemon.store.close()


def test_a_look_is_stored_seldom(daemon: Ageing, time: Time) -> None:
    stored = []
    for _ in range(360):
        daemon.age.save()
        stored.append(daemon.store.numbers.get(tables.META_CLOCK_WALL))
        time.passes(RETENTION_TURN_SECONDS)
    assert len(set(stored)) <= 2 + 360 * RETENTION_TURN_SECONDS / CLOCK_SAVE_SECONDS
    assert clock.now_ns() - cast("int", stored[-1]) <= 1e9 * CLOCK_SAVE_SECONDS
    time.passes(CLOCK_SAVE_SECONDS)
    daemon.age.save()
    for jump, unseen in ((300, 300), (120, 420)):
        time.jumps(jump)
        daemon.age.save()
        assert daemon.store.numbers.get(tables.META_CLOCK_UNSEEN) == unseen * 10**9


def test_a_stored_look_that_is_none(daemon: Ageing, tmp_path: Path) -> None:
    with daemon.store._environment.write() as txn:
        txn.put(tables.META, tables.META_CLOCK_WALL, b"short")
    with pytest.raises(CorruptionError, match="clock_wall"):
        RetentionClock(daemon.store)


def test_figures_of_the_trash(daemon: Ageing, time: Time) -> None:
    daemon.turn()
    found = daemon.trash.figures()
    left = found.pop("trash_next_purge_seconds")
    assert left == WEEK - 1_200
    assert found == {
        "trash_volumes": 1,
        "trash_bytes": 1,
        "trash_stored_bytes": 0,
        "trash_max_bytes": float(sys.maxsize),
    }
    second = replace(daemon.trash.records()[0], id=3, name="other", removed_ns=clock.now_ns())
    daemon.store.commit(Batch(volumes=[replace(second, head=None)]))
    daemon.trash.add(replace(second, head=None))
    assert daemon.trash.figures()["trash_volumes"] == 2
    time.jumps(WEEK)
    daemon.turn()
    assert daemon.trash.figures()["trash_next_purge_seconds"] == DAY
    (due, _) = (view.purge for view in daemon.trash.views())
    assert due == clock.rfc3339(clock.now_ns() + DAY * 10**9)
    time.jumps(-WEEK)
    daemon.turn()
    assert daemon.trash.figures()["trash_next_purge_seconds"] == WEEK - 1_200
    for record in daemon.trash.records():
        daemon.trash.purge(record)
    daemon.trash.measure()
    assert daemon.trash.figures() == {**found, "trash_volumes": 0, "trash_bytes": 0}
