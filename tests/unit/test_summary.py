"""What the log tells of a volume that is captured all day."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from diffkeeper import clock
from diffkeeper.format.ids import Root
from diffkeeper.format.records import SnapshotRecord
from diffkeeper.volumes.log_summary import CHANGES_MAX, SUMMARY_SECONDS, Summary

if TYPE_CHECKING:
    import pytest

RECORD = SnapshotRecord(
    1, 1, None, Root(32), 1, "crash", "interval", 10, 1000, 5, 1, 2.0, 3.0
)  # fmt: skip


def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock shows the one number in here."""
    now = [0.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    return now


def test_a_day_of_snapshots_is_a_line_an_hour(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = stopped_clock(monkeypatch)
    caplog.set_level(logging.INFO)
    summary = Summary()
    for seq in range(86_400):
        now[0] += 1.0
        summary.log_snapshot("v", replace(RECORD, seq=seq))
    first, *hours = caplog.records
    assert first.getMessage() == "snapshot"
    assert [each.getMessage() for each in hours] == ["snapshots"] * 24
    shown = vars(hours[-1])
    taken = round(SUMMARY_SECONDS)
    assert (shown["taken"], shown["fuzzy"], shown["new_bytes"]) == (taken, 0, 5 * taken)


def test_changes_are_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    summary = Summary()
    kinds = ["crash", "crash", "fuzzy", "fuzzy", "crash", "crash"]
    for seq, kind in enumerate(kinds):
        summary.log_snapshot("v", replace(RECORD, seq=seq, consistency=kind))
    for reason in ("manual", "unmount"):
        summary.log_snapshot("v", replace(RECORD, seq=9, reason=reason))
    told = [(vars(each)["seq"], vars(each)["reason"]) for each in caplog.records]
    assert told == [
        (0, "interval"),
        (2, "interval"),
        (4, "interval"),
        (9, "manual"),
        (9, "unmount"),
    ]


def test_a_volume_that_changes_for_ever_is_told_in_the_summaries(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second snapshot is fuzzy, as with a writer that seldom rests."""
    now = stopped_clock(monkeypatch)
    caplog.set_level(logging.INFO)
    summary = Summary()
    for seq in range(2 * round(SUMMARY_SECONDS)):
        now[0] += 1.0
        consistency = ("crash", "fuzzy")[seq % 2]
        summary.log_snapshot("v", replace(RECORD, seq=seq, consistency=consistency))
    told = [each.getMessage() for each in caplog.records]
    assert told == ([*["snapshot"] * CHANGES_MAX, "snapshots"]) * 2
    assert vars(caplog.records[-1])["fuzzy"] == round(SUMMARY_SECONDS) // 2
