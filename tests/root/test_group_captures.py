"""One capture of several volumes that the same container has mounted."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from diffkeeper import failpoint
from diffkeeper.snapshot.policy import CapturePolicy
from tests.support.containers import Container
from tests.support.spanning import GroupRig
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("source", ["inotify", "scan"])
def test_one_capture_of_two_volumes(source: str, tmp_path: Path) -> None:
    with (
        GroupRig(tmp_path, ("a", "b"), CapturePolicy(source=source)) as volumes,
        Container() as container,
    ):
        container.start(
            {live: tmp_path / "in" / name for name, live in volumes.live.items()}, "sleep 300"
        )
        (volumes.live["a"] / "f").write_bytes(b"1" * 100_000)
        first = volumes.capture()
        assert first.keys() == {"a", "b"}
        assert all(s.consistency == "crash" and s.group == {"1": 1, "2": 1} for s in first.values())
        assert first["a"].time_ns == first["b"].time_ns
        assert first["a"].freeze_ms == first["b"].freeze_ms > 0
        figures = volumes.watched["a"].figures
        assert figures.dirty_bytes >= 100_000
        assert figures.rounds >= 2
        assert figures.freeze_seconds == pytest.approx(first["a"].freeze_ms / 1000, abs=1e-4)
        # A member in which nothing changed is named at its head.
        (volumes.live["b"] / "g").write_bytes(b"2")
        second = volumes.capture()
        assert second.keys() == {"b"}
        assert second["b"].group == {"1": 1, "2": 2}
        assert volumes.capture() == {}


@pytest.mark.parametrize("name", ["capture.drained", "capture.frozen", "capture.before_commit"])
def test_a_capture_that_fails_loses_nothing_of_any_member(name: str, tmp_path: Path) -> None:
    """What was drained of all is due again."""
    with GroupRig(tmp_path, ("a", "b"), CapturePolicy()) as volumes, Container() as container:
        container.start(
            {live: tmp_path / "in" / name for name, live in volumes.live.items()}, "sleep 300"
        )
        volumes.capture()
        for live in volumes.live.values():
            (live / "f").write_bytes(os.urandom(200_000))
        failpoint.arm(f"{name}=error")
        with pytest.raises(failpoint.FailpointError):
            volumes.capture()
        assert all(member.watched.pending(member.writers) for member in volumes.members())
        taken = volumes.capture()
        assert taken["a"].group == taken["b"].group == {"1": 2, "2": 2}
        for number, record in taken.items():
            replayed = volumes.replay(record, tmp_path / "out" / number)
            assert difference(describe(volumes.live[number]), describe(replayed)) == []
