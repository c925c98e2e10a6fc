"""How long removed volumes stay, and which go first when they take too much."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from diffkeeper import clock
from diffkeeper.errors import InvalidInputError
from diffkeeper.history.retention_clock import RetentionClock
from diffkeeper.history.trash import Trash
from diffkeeper.space.usage import UsageWalk
from diffkeeper.store.store import Batch, Store
from diffkeeper.volumes.layout import Layout
from diffkeeper.volumes.options import changed, parse_options
from diffkeeper.volumes.trash_time import kept_seconds, parse_trash
from tests.support.histories import FILE_BYTES, stored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WEEK = 7 * 86_400.0
ANONYMOUS = "0123456789abcdef" * 4


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store.open(str(tmp_path / "s"), reserve_bytes=0)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("off", 0), ("0s", 0), ("90m", 5400), ("3650d", 3650 * 86_400)]
)
def test_the_option(text: str, seconds: float) -> None:
    assert parse_options({"trash": text}).trash_seconds == parse_trash(text) == seconds
    assert kept_seconds("v", {"trash": text}, WEEK) == seconds
    assert kept_seconds(ANONYMOUS, {"trash": text}, WEEK) == seconds


@pytest.mark.parametrize("text", ["", "-1d", "3651d", "never", "1", "on"])
def test_a_bad_one_names_what_is_allowed(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"option trash: .*0s to 3650d, or off"):
        parse_options({"trash": text})


def test_it_is_changed_later() -> None:
    assert changed({"trash": "1d"}, {"trash": "off"}) == {"trash": "off"}
    assert changed({"trash": "1d"}, {"trash": None}) == {}


@pytest.mark.parametrize(
    ("name", "default", "seconds"),
    [
        ("v", WEEK, WEEK),
        (ANONYMOUS, WEEK, 3600),
        (ANONYMOUS, 60, 60),
        (ANONYMOUS[1:], WEEK, WEEK),
        (ANONYMOUS.upper(), WEEK, WEEK),
        (ANONYMOUS + "0", WEEK, WEEK),
    ],
)
def test_names_that_the_engine_made_up_go_sooner(name: str, default: float, seconds: float) -> None:
    assert kept_seconds(name, {}, default) == seconds


def removed(store: Store, trash: Trash, number: int, *, clean: bool = True) -> None:
    """The volume of this number was removed, a second after the one before it."""
    record = next(each for each in store.volumes() if each.id == number)
    ago_ns = (1000 - number) * 10**9
    record = replace(record, removed_ns=clock.now_ns() - ago_ns, clean=clean)
    store.commit(Batch(volumes=[record]))
    trash.add(record)


def names(trash: Trash) -> list[str]:
    return [record.name for record in trash.records()]


def test_the_oldest_go_when_they_take_too_much(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What another one has, too, counts for the one that goes last, or not at all."""
    shared, living = os.urandom(FILE_BYTES), os.urandom(FILE_BYTES)
    trash = Trash(store, Layout(str(tmp_path), ""), WEEK, RetentionClock(store), 4 * FILE_BYTES)
    accounting = UsageWalk(store)
    for number, more in enumerate(
        ([shared], [living], [shared], [living], [os.urandom(FILE_BYTES)]), 1
    ):
        stored(store, number, 1, [os.urandom(FILE_BYTES), *more])
    stored(store, 6, 1, [living])
    for number in (1, 2, 3, 4, 5):
        removed(store, trash, number, clean=number != 2)

    assert trash.purge_due() == 0  # before anything was counted
    counted = accounting.refresh()
    assert counted is not None
    trash.counted(counted.trash)
    assert [counted.trash[number] // FILE_BYTES for number in (1, 3, 4, 5)] == [1, 2, 1, 2]
    assert trash.stored()["trash_stored_bytes"] == sum(counted.trash.values())
    caplog.set_level(logging.INFO)
    assert trash.purge_due() == 2
    assert names(trash) == ["v2", "v4", "v5"]  # the second keeps what is nowhere else
    told = [(vars(each)["volume"], vars(each)["cause"]) for each in caplog.records]
    assert told == [("v1", "trash-max"), ("v3", "trash-max")]
    assert trash.stored()["trash_stored_bytes"] <= 4 * FILE_BYTES
    assert trash.purge_due() == 0


def test_each_goes_at_its_own_time(store: Store, tmp_path: Path) -> None:
    trash = Trash(store, Layout(str(tmp_path), ""), WEEK, RetentionClock(store))
    for number, options in enumerate(({}, {"trash": "off"}, {"trash": "30d"}), 1):
        stored(store, number, 1, [os.urandom(FILE_BYTES)])
        record = next(each for each in store.volumes() if each.id == number)
        store.commit(Batch(volumes=[replace(record, options=options)]))
        removed(store, trash, number)
    first, second, third = (view.purge for view in trash.views())
    assert second < first < third
    assert trash.figures()["trash_next_purge_seconds"] == 0
    assert trash.purge_due() == 1
    assert names(trash) == ["v1", "v3"]
