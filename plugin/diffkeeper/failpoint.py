"""Named points at which the crash tests stop or fail the program.

A failpoint costs one dictionary look-up when none is armed. `DIFFKEEPER_FAILPOINTS` (read by the
daemon's configuration alone) arms them as `name=kill` or `name=error`, comma-separated;
`name=kill:3` acts at the third pass.
"""

from __future__ import annotations

import os
import signal
from itertools import chain
from typing import TYPE_CHECKING, Final

from diffkeeper.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping


def _commits(*names: str) -> tuple[str, ...]:
    """Both sides of a transaction's commit, for each of these names."""
    return tuple(f"{name}.{side}_commit" for name in names for side in ("before", "after"))


# What each lies in: an event of a volume's life, as `volumes.lifecycle` names it, or other work.
POINTS: Final[Mapping[str, tuple[str, ...]]] = {
    "create": ("volume.before_create", "volume.after_create"),
    "mount": ("mount.before_bind", "mount.after_bind"),
    "replayed": ("replay.building", "replay.before_rename", "replay.after_rename"),
    "last unmount": ("unmount.before_capture", "unmount.after_unbind"),
    "remove": ("volume.before_remove", "volume.after_remove"),
    "undelete": _commits("undelete"),
    "purge": ("trash.before_purge", "trash.after_purge", *_commits("forget")),
    "repair": ("repair.journaled", "repair.writing", "repair.written", *_commits("repair")),
    "settled": ("repair.before_settle", "repair.after_settle"),
    "capture": (
        *("capture.drained", "capture.precopied", "capture.frozen", "capture.thawed"),
        *("capture.before_commit", "store.objects_flushed", *_commits("store")),
    ),
    "clock": _commits("clock"),
    "import": (
        *("import.objects_stored", "import.records_stored"),
        *_commits("import", "adopt"),
    ),
    "maintenance": (
        *_commits("merge", "places", "carry", "replace", "sweep", "purge", "collected"),
        *("compact.copied", "compact.renamed"),
    ),
    "scrub": _commits("heal"),
}
NAMES = frozenset(chain.from_iterable(POINTS.values()))
_armed: dict[str, tuple[str, int]] = {}


class FailpointError(Exception):
    """Raised at a failpoint armed with `error`; never raised otherwise."""


def arm(specification: str) -> None:
    """Arm from `name=action[:count]` items separated by commas; raises InvalidInputError."""
    for item in filter(None, specification.split(",")):
        name, _, action = item.partition("=")
        action, _, count = action.partition(":")
        if name not in NAMES or action not in ("kill", "error") or not (count or "1").isdigit():
            raise InvalidInputError(
                f"failpoint {item!r}: use NAME=kill|error[:COUNT] with NAME one of"
                f" {', '.join(sorted(NAMES))}"
            )
        _armed[name] = (action, int(count or "1"))


def disarm() -> None:
    """Disarm every failpoint."""
    _armed.clear()


def hit(name: str) -> None:
    """Pass the failpoint `name`: returns, raises FailpointError, or kills the process."""
    if name not in _armed:
        return
    action, count = _armed[name]
    if count > 1:
        _armed[name] = (action, count - 1)
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    del _armed[name]
    raise FailpointError(name)
