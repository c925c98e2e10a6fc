"""What the model of the crash tests knows of one volume, and where the lifecycle table leads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diffkeeper.volumes import lifecycle
from diffkeeper.volumes.lifecycle import Event, Facts, State

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Files = dict[str, bytes]


@dataclass
class Book:
    """What is known of one volume."""

    name: str
    live: Path
    states: list[Files] = field(default_factory=lambda: [{}])  # the last one is there now
    durable: int = 0  # the state that an acknowledged snapshot holds
    present: bool = True  # the live directory
    mounts: dict[str, int] = field(default_factory=dict)
    doubtful: bool = False  # all mounts are from before this daemon, and nobody is seen to use them
    snapshots: dict[int, str] = field(default_factory=dict)  # acknowledged: number to root
    used: bool = False  # some process has it mounted
    stored: bool = False  # it has a snapshot, as far as it was looked at
    removed: bool = False
    kept: bool = False  # removed, with its live directory

    @property
    def rotten_next(self) -> str:
        """A file with content in the present state; "" if there is none."""
        return next((name for name, content in self.states[-1].items() if content), "")

    def forgets_mounts(self) -> bool:
        """Whether the counted mounts are those of containers that ended unseen."""
        return bool(self.mounts) and self.doubtful and not self.used

    @property
    def stage(self) -> State:
        """Where the volume is in its life, by who uses it: what a removal goes by."""
        return self._stage(mounted=bool(self.mounts) and not self.forgets_mounts())

    @property
    def counted(self) -> State:
        """Where it is by the counts of its mounts."""
        return self._stage(mounted=bool(self.mounts))

    def _stage(self, *, mounted: bool) -> State:
        live = self.kept if self.removed else self.present
        # The journal that a killed repair left is no promise: it is looked for, and settled by the
        # daemon's next look into the live directory.
        repair = live and not self.removed and self.repair_journal.exists()
        return lifecycle.state_of(
            Facts(mounted, live, self.stored, repair=repair, removed=self.removed)
        )

    @property
    def repair_journal(self) -> Path:
        """Where the journal of a repair is."""
        return self.live.parent / "repair"


def leads(before: State, events: Sequence[Event]) -> set[State]:
    """Where the table leads, event by event; ConflictError where no state lists the next one."""
    states = {before}
    for event in events:
        listing = [s for s in states if lifecycle.lists(s, event)]
        lifecycle.require((listing or sorted(states, key=str))[0], event)
        states = {after for s in listing for after in lifecycle.require(s, event)}
    return states


def after_an_end(end: Event, before: State, *events: Event) -> set[State]:
    """Where the table leads if a kill or a reboot ended the daemon before, between or after these
    events. The next daemon replays by itself what is lost.
    """
    ways = [(*events[:n], end) for n in range(len(events) + 1)]
    found = {state for way in ways for state in leads(before, way)}
    ahead = leads(State.STORED, (Event.MOUNT, Event.REPLAYED)) if State.STORED in found else set()
    return found | ahead
