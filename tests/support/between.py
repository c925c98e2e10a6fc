"""Steps of the churn between any two looks of a capture, all on one thread.

What a race would meet once in a long while is met in every capture here, with little work, and what
a seed has done can be read from its trace. In the freeze nobody acts, so that the volume itself is
the truth.
"""

from __future__ import annotations

import errno
import os
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from diffkeeper import failpoint
from diffkeeper.errors import FreezeError
from diffkeeper.fsio import inode
from diffkeeper.snapshot.outcome import Budget
from tests.support import torture
from tests.support.churn.actor import KINDS, Actor
from tests.support.churn.steps import EXPECTED
from tests.support.trees import describe, difference, without

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pytest

    from diffkeeper.format.records import SnapshotRecord
    from diffkeeper.freeze.writers import Writers
    from tests.support.capture_rig import CaptureRig

ACTORS = 3
# They take other processes or the kernel's own threads, or a directory outside of the volume.
ELSEWHERE = ("aio", "uring", "map_child", "map_child_stays", "map_debugged", "map_beside",
             "move_out", "move_in", "swap_out", "write_outside", "link_outside")  # fmt: skip
BEFORE = (5, 30, 100)  # steps ahead of a capture
ODDS = (0.1, 0.3, 0.6)  # of a step ahead of a look, and of another one after it
CUTS = (0, 0, 1, 2, 3, 5, 8, 13, 21, 34)  # the check that ends a freeze of a capture early; 0: none


class Steps:
    """Steps by a seed; `acting` says whether looks are disturbed, `trace` tells what was done."""

    def __init__(
        self, live: Path, seed: int, kinds: Sequence[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """kinds: names of those of steps."""
        self.random = random.Random(seed)
        self._actors = [Actor(str(live), str(live), f"{number}0") for number in range(ACTORS)]
        self._kinds = [KINDS[name] for name in kinds]
        self._weights = [kind.weight for kind in self._kinds]
        self._odds = 0.0
        self.acting = False
        self.trace: list[str] = []
        self.named: set[int] = set()  # inode numbers of what got another name
        pinned, statuses = inode.pinned, inode.statuses

        def disturbed_pin(
            directory: int, name: bytes
        ) -> contextlib.AbstractContextManager[tuple[int, os.stat_result]]:
            self._disturb()
            return pinned(directory, name)

        def disturbed_statuses(*arguments: object) -> Iterator[object]:
            for each in statuses(*arguments):  # type: ignore[arg-type]  # as they came
                self._disturb()
                yield each

        monkeypatch.setattr(inode, "pinned", disturbed_pin)
        monkeypatch.setattr(inode, "statuses", disturbed_statuses)
        monkeypatch.setattr(failpoint, "hit", self._hit)

    def _hit(self, point: str) -> None:
        if point == "capture.frozen":
            self.acting = False
        self._disturb()

    def _disturb(self) -> None:
        while self.acting and self.random.random() < self._odds:
            self.acting = False
            self.step()
            self.acting = True

    def begin(self) -> None:
        """Some steps, and then those between the looks of a capture."""
        for _ in range(self.random.choice(BEFORE)):
            self.step()
        self._odds = self.random.choice(ODDS)
        self.acting = True

    def step(self) -> None:
        """One step of one of the actors, drawn from the seed."""
        actor = self.random.choice(self._actors)
        actor.random = random.Random(self.random.random())
        actor.notes.clear()
        (kind,) = self.random.choices(self._kinds, self._weights)
        outcome = "done"
        try:
            kind.act(actor)
        except OSError as error:
            if error.errno not in EXPECTED:
                raise
            outcome = errno.errorcode[error.errno]
        self.trace.append(f"{time.monotonic():.6f} {kind.name} {outcome} {' '.join(actor.notes)}")
        self.named |= {int(note[1:]) for note in actor.notes if note.startswith("+")}

    def close(self) -> None:
        """Lets go of all files."""
        for actor in self._actors:
            for descriptor in actor.open:
                os.close(descriptor)
            for mapping in (*actor.maps, *actor.own_maps):
                mapping.end()


class Between:
    """One volume, written to by this process as by one of its containers."""

    def __init__(
        self, rig: CaptureRig, seed: int, kinds: Sequence[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._rig = rig
        self.steps = Steps(rig.live, seed, kinds, monkeypatch)
        self.compared = self.late = 0
        self._checks_left = 0
        check = Budget.check

        def ending_check(budget: Budget) -> None:
            self._checks_left -= 1
            if not self._checks_left:
                raise FreezeError("this freeze ends early")
            check(budget)

        monkeypatch.setattr(Budget, "check", ending_check)

    def capture(self) -> list[str]:
        """One capture; differences of its snapshot, if it is one of an instant."""
        self.steps.begin()
        self._checks_left = self.steps.random.choice(CUTS)
        self.steps.trace.append(f"capture, ends at check {self._checks_left}")
        record = self._rig.capture_of("manual", self._writers())
        self.steps.acting = False
        if record is None or record.consistency == "fuzzy":
            return []
        found = self.differences(record)
        watched, named, self.steps.named = self._rig.watched, self.steps.named, set()
        numbers = torture.inodes_of(self._rig.live)
        late = {
            line
            for line in found
            if torture.may_be_late(watched, numbers.get(torture.path_of(line), 0), named)
        }
        self.compared += 1
        self.late += len(late)
        return [line for line in found if line not in late]

    def at_rest(self) -> list[str]:
        """Differences once everything was compared, of which none may be late."""
        self._rig.watched.comparison.due = 0.0
        self._rig.capture_of("manual", self._writers())
        head = self._rig.state.head
        assert head is not None
        return self.differences(head)

    def differences(self, record: SnapshotRecord) -> list[str]:
        """Between the volume as it is and a snapshot."""
        replayed = self._rig.replay(record, f"replayed{record.seq}-{self.compared}")
        exclude = self._rig.policy.exclude
        return difference(without(describe(self._rig.live), exclude), describe(replayed))

    def _writers(self) -> Writers:
        found = self._rig.writers()
        return replace(found, pids=(*found.pids, os.getpid()))
