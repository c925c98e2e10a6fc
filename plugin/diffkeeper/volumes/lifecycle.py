"""The life of a volume as a table: its states, and where each event leads. Pure.

`state_of` derives a volume's state from facts; facts that no volume has together are a
ConflictError. Create, mount, last unmount, rename, repair, settled, remove, undelete and purge
begin with `require`, in `volume_life.VolumeLife`, `Registry` or `Trash`: what a state does not list
is a ConflictError. The other events happen unasked, and show in the facts: `follow` is a
ConflictError where the table does not lead to what is found. After a kill or a reboot that is asked
at the first step of each volume, since its files are not looked at before. The model of the
state-machine tests holds all events to this table, too.

What does not fit into the table:
- A Create of a volume that is there, with the same options, is answered and is no event. With
  others it is an error of `derived_volumes`.
- A removal takes a last snapshot. Where that fails, or is fuzzy, the live directory is kept:
  `remove` has two outcomes, and a failed capture is no event.
- Unmounts that are not the last one, and those of unknown ids, only change counts. Which counted
  mounts are valid is decided by `mount_ledger.MountLedger`, before the state is. The last unmount
  happens after the final capture, and so does that of mounts whose containers are gone.
- A mount has two steps, which ask both: `Volume.prepare` makes the live directory complete, which
  leads from `new` to `live`, and from `stored` to `replaying`; `Volume.mount` leads from `live` to
  `mounted`. A lost live directory is prepared ahead of its mount, too. One that is lost while
  containers have the volume mounted is replayed as well; the volume stays `mounted`.
- A replay that failed leads to `live` where the rename into place was done, and not made durable.
- While a replay, repair, removal or final capture is under way, other steps wait for the volume's
  lock (`registry.Slot`), or get a BusyError: only the holder of the lock asks the table. So
  `repairing` is only seen after a kill has left the journal of a repair, which is finished when the
  volume is next opened.
- A volume that only has `fuzzy` snapshots refuses the replay itself, and names the command that
  restores one (`Volume.prepare`). What is absent, or not in the trash, is a NotFoundError.
- A live directory that cannot be read counts as present.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from diffkeeper.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Mapping


class State(Enum):
    """Where a volume is in its life."""

    ABSENT = "absent"  # never created
    NEW = "new"  # neither a live directory nor a snapshot
    STORED = "stored"  # snapshots, but no live directory: the next mount replays it
    REPLAYING = "replaying"
    LIVE = "live"  # a complete live directory that nothing has mounted
    MOUNTED = "mounted"
    REPAIRING = "repairing"  # the journal of a repair is there
    TRASHED_KEPT = "trashed_kept"  # in the trash, with its live directory
    TRASHED = "trashed"  # in the trash, with all that it held in the store
    PURGED = "purged"  # deleted for good: its id is never used again


class Event(Enum):
    """What happens to a volume."""

    CREATE = "create"  # also a clone or an import
    MOUNT = "mount"
    REPLAYED = "replayed"
    REPLAY_FAILED = "replay failed"
    LAST_UNMOUNT = "last unmount"
    RENAME = "rename"
    REPAIR = "repair"
    SETTLED = "settled"  # a repair has ended, or was undone
    REMOVE = "remove"
    UNDELETE = "undelete"
    PURGE = "purge"
    LOST = "live directory lost"
    DAEMON_KILLED = "daemon killed"
    REBOOT = "reboot"


_S, _E = State, Event


def _to(*states: State) -> frozenset[State]:
    return frozenset(states)


# In which a daemon that ended may have left a volume that is not in the trash.
LEFT_MOUNTED: Final = _to(_S.MOUNTED)
LEFT_UNMOUNTED: Final = _to(_S.NEW, _S.STORED, _S.REPLAYING, _S.LIVE, _S.REPAIRING)
WITH_LIVE: Final = _to(_S.LIVE, _S.REPAIRING)  # and nothing has mounted it
_IN_TRASH: Final = _to(_S.TRASHED, _S.TRASHED_KEPT)

# State -> event -> the states that it may lead to.
TABLE: Final[Mapping[State, Mapping[Event, frozenset[State]]]] = {
    _S.ABSENT: {_E.CREATE: _to(_S.NEW, _S.LIVE, _S.STORED)},
    _S.NEW: {
        _E.MOUNT: _to(_S.LIVE),
        _E.RENAME: _to(_S.NEW),
        _E.REMOVE: _to(_S.TRASHED),
        _E.DAEMON_KILLED: _to(_S.NEW),
        _E.REBOOT: _to(_S.NEW),
    },
    _S.STORED: {
        _E.MOUNT: _to(_S.REPLAYING),
        _E.RENAME: _to(_S.STORED),
        _E.REMOVE: _to(_S.TRASHED),
        _E.DAEMON_KILLED: _to(_S.STORED),
        _E.REBOOT: _to(_S.STORED),
    },
    _S.REPLAYING: {
        _E.REPLAYED: _to(_S.LIVE),
        _E.REPLAY_FAILED: _to(_S.STORED, _S.LIVE),
        _E.DAEMON_KILLED: _to(_S.STORED, _S.LIVE),
        _E.REBOOT: _to(_S.STORED, _S.LIVE),
    },
    _S.LIVE: {
        _E.MOUNT: _to(_S.MOUNTED),
        _E.RENAME: _to(_S.LIVE),
        _E.REPAIR: _to(_S.REPAIRING),
        _E.REMOVE: _IN_TRASH,
        _E.LOST: _to(_S.NEW, _S.STORED),
        _E.DAEMON_KILLED: _to(_S.LIVE),
        _E.REBOOT: _to(_S.LIVE),
    },
    _S.MOUNTED: {
        _E.MOUNT: _to(_S.MOUNTED),
        _E.REPLAYED: _to(_S.MOUNTED),
        _E.REPLAY_FAILED: _to(_S.MOUNTED),
        # Not live where the directory was lost meanwhile; the same after a reboot.
        _E.LAST_UNMOUNT: _to(_S.NEW, _S.STORED, _S.LIVE),
        _E.LOST: _to(_S.MOUNTED),
        _E.DAEMON_KILLED: _to(_S.MOUNTED),
        _E.REBOOT: _to(_S.NEW, _S.STORED, _S.LIVE),
    },
    _S.REPAIRING: {
        _E.MOUNT: _to(_S.MOUNTED),
        _E.RENAME: _to(_S.REPAIRING),
        _E.REPAIR: _to(_S.REPAIRING),
        _E.SETTLED: _to(_S.LIVE),
        _E.REMOVE: _IN_TRASH,
        _E.LOST: _to(_S.NEW, _S.STORED),
        _E.DAEMON_KILLED: _to(_S.REPAIRING),
        _E.REBOOT: _to(_S.REPAIRING),
    },
    _S.TRASHED_KEPT: {
        _E.UNDELETE: _to(_S.NEW, _S.STORED, _S.LIVE),
        _E.PURGE: _to(_S.PURGED),
        _E.LOST: _to(_S.TRASHED_KEPT),
        _E.DAEMON_KILLED: _to(_S.TRASHED_KEPT),
        _E.REBOOT: _to(_S.TRASHED_KEPT),
    },
    _S.TRASHED: {
        _E.UNDELETE: _to(_S.NEW, _S.STORED, _S.LIVE),  # live: it was not moved away yet
        _E.PURGE: _to(_S.PURGED),
        _E.DAEMON_KILLED: _to(_S.TRASHED),
        _E.REBOOT: _to(_S.TRASHED),
    },
    _S.PURGED: {},
}


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about a volume that exists. stored: it has a snapshot; repair: there is a journal of a
    repair beside its live directory; removed: it is in the trash, where `live` says that its live
    directory was kept.
    """

    mounted: bool
    live: bool
    stored: bool
    replaying: bool = False
    repair: bool = False
    removed: bool = False


def _refuse_contradiction(facts: Facts) -> None:
    """ConflictError for facts that no volume has together."""
    if facts.removed and (facts.mounted or facts.replaying):
        raise ConflictError("the volume is in the trash, and mounted or being replayed")
    if facts.mounted and facts.repair:
        # A repair needs it unmounted, and a mount is only counted once the journal is gone.
        raise ConflictError("the volume is mounted, and there is the journal of a repair")
    if facts.replaying and facts.repair:
        raise ConflictError("the volume is being replayed, and there is the journal of a repair")
    if facts.replaying and not facts.stored:
        raise ConflictError("the volume is being replayed, and has no snapshot")


def state_of(facts: Facts) -> State:
    """The state that follows from the facts; a mounted volume is `mounted` whatever becomes of its
    live directory. ConflictError for facts that no volume has together.
    """
    _refuse_contradiction(facts)
    if facts.removed:
        return State.TRASHED_KEPT if facts.live else State.TRASHED
    if facts.mounted:
        return State.MOUNTED
    if facts.replaying:
        return State.REPLAYING
    if not facts.live:
        return State.STORED if facts.stored else State.NEW
    return State.REPAIRING if facts.repair else State.LIVE


def lists(state: State, event: Event) -> bool:
    """Whether the event is allowed in this state."""
    return event in TABLE[state]


def require(state: State, event: Event, refusal: str = "") -> frozenset[State]:
    """States that the event may lead to; ConflictError, with the text `refusal` if given, where the
    state does not list it.
    """
    if not lists(state, event):
        raise ConflictError(
            refusal or f"{event.value} is not possible: the volume is {state.value}"
        )
    return TABLE[state][event]


def follow(before: frozenset[State], event: Event, after: State) -> None:
    """ConflictError where the event leads from none of these states to the one that was found."""
    if not any(after in TABLE[state].get(event, ()) for state in before):
        states = " or ".join(state.value for state in State if state in before)
        raise ConflictError(
            f"its files and its record say that the volume is {after.value}, which does not follow"
            f" from {event.value} while it was {states}"
        )


def diagram() -> str:
    """The table as a mermaid state diagram, without the events that change nothing."""
    lines = ["stateDiagram-v2"]
    for state, events in TABLE.items():
        for event, after in events.items():
            lines += [
                f"    {state.value} --> {other.value}: {event.value}"
                for other in State
                if other in after and other is not state
            ]
    return "\n".join(lines)
