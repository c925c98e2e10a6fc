"""Named points at which the crash tests stop or fail the program.

A failpoint costs one dictionary look-up when none is armed. `DIFFKEEPER_FAILPOINTS` (read by the
daemon's configuration alone) arms them as `name=kill` or `name=error`, comma-separated;
`name=kill:3` acts at the third pass.
"""

from __future__ import annotations

import os
import signal

from diffkeeper.errors import InvalidInputError

NAMES = frozenset(
    {
        "store.before_commit",
        "store.after_commit",
        "store.objects_flushed",
        "merge.before_commit",
        "merge.after_commit",
        "places.before_commit",
        "places.after_commit",
        "carry.before_commit",
        "carry.after_commit",
        "replace.before_commit",
        "replace.after_commit",
        "sweep.before_commit",
        "sweep.after_commit",
        "purge.before_commit",
        "purge.after_commit",
        "adopt.before_commit",
        "adopt.after_commit",
        "clock.before_commit",
        "clock.after_commit",
        "heal.before_commit",
        "heal.after_commit",
        "repair.before_commit",
        "repair.after_commit",
        "repair.journaled",
        "repair.writing",
        "repair.written",
        "repair.before_settle",
        "repair.after_settle",
        "compact.copied",
        "compact.renamed",
        "capture.drained",
        "capture.precopied",
        "capture.frozen",
        "capture.thawed",
        "capture.before_commit",
        "replay.building",
        "replay.before_rename",
        "replay.after_rename",
        "volume.before_create",
        "volume.after_create",
        "import.objects_stored",
        "import.records_stored",
        "import.before_commit",
        "import.after_commit",
        "volume.before_remove",
        "volume.after_remove",
        "forget.before_commit",
        "forget.after_commit",
        "trash.before_purge",
        "trash.after_purge",
        "undelete.before_commit",
        "undelete.after_commit",
        "mount.before_bind",
        "mount.after_bind",
        "unmount.before_capture",
        "unmount.after_unbind",
    }
)
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
