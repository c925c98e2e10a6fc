"""Names of which the newest state lacks something, because it cannot be read or recorded.

One odd file does not stop the snapshot of the others. Of a file that cannot be read now, such as
one with a bad block or with a lease on it, the newest known content stays recorded, and the
snapshot is `fuzzy`. Such names are retried, at growing intervals, and the cost of retrying is
bounded. Of what can never be recorded, such as attributes that are too large, the rest is recorded,
and the snapshot says so.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffkeeper import clock, limits
from diffkeeper.errors import DiffKeeperError
from diffkeeper.snapshot.exclusions import cause_of
from diffkeeper.sources.base import Dirty

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diffkeeper.format.records import SnapshotRecord
    from diffkeeper.snapshot.worktree import Worktree

HELD_BACK_MAX = 1_000  # names of a volume that could not be read, or not be recorded as a whole
HELD_BACK_SHOWN_MAX = 10
HELD_BACK_PATH_CHARACTERS_MAX = 200
HELD_BACK_SECONDS_MIN = 5.0  # until such names are retried; longer each time
HELD_BACK_SECONDS_MAX = 300.0

# Errors of the daemon, or none of a file at all.
_NOT_OF_A_FILE = frozenset({errno.ENOENT, errno.EXDEV, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_OF_THE_DISK = frozenset(
    {errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT}
)
_REASONS = {errno.EWOULDBLOCK: "another process holds a lease on it"}


class UnreadableFileError(DiffKeeperError):
    """One file cannot be read; others can."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """The problem of one name; `stale`: its recorded content is not what is there."""

    problem: str
    stale: bool


@dataclass(frozen=True, slots=True)
class Lacking:
    """What a state lacks of what is on disk, as a sentence; `stale`: so it is not of one
    instant.
    """

    text: str
    stale: bool
    trouble: str = ""  # the same sentence without what is left out by option

    def is_recorded_in(self, head: SnapshotRecord) -> bool:
        """Whether that snapshot's record says the same."""
        return (
            self.text in head.cause if self.text else head.consistency == "fuzzy" or not head.cause
        )


Place = tuple[int, bytes]  # inode number of a directory, and a name in it or ""


def reason(error: OSError) -> str:
    """What an error of one file means, for a person."""
    return _REASONS.get(error.errno or 0) or error.strerror or str(error)


def of_the_disk(error: OSError) -> bool:
    """Whether the error comes from the disk, and not from a limit of this process."""
    return error.errno in _OF_THE_DISK


@contextlib.contextmanager
def unreadable() -> Iterator[None]:
    """Around reading one file: raises UnreadableFileError for errors that concern this file
    alone.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NOT_OF_A_FILE:
            raise
        raise UnreadableFileError(reason(error)) from error


class HeldBack:
    """The names of one volume that have a problem; bounded.

    `due` may be called from any thread, everything else by the capture under way only.
    """

    def __init__(self, exclude: Sequence[str] = ()) -> None:
        """exclude: what is left out by option, see `snapshot.exclusions`."""
        self._meant = cause_of(exclude)
        self._names: dict[Place, Trouble] = {}
        self._before: dict[Place, Trouble] = {}  # as before a comparison that is under way
        self._beyond = False  # there were more than are remembered
        self._delay = HELD_BACK_SECONDS_MIN
        self._due = math.inf
        self._lacking: Lacking | None = None
        self.frozen = False  # inside a freeze nothing is retried

    @property
    def stale(self) -> bool:
        """Whether something is recorded that is not what is there."""
        return self._beyond or any(trouble.stale for trouble in self._names.values())

    @property
    def beyond(self) -> bool:
        """Whether there were more than are remembered: only a comparison finds the others."""
        return self._beyond

    def record(self, place: Place, trouble: Trouble | None) -> None:
        """Record the result of a look at a name; None: it has no problem any more."""
        before = self._names.get(place)
        if before == trouble:
            return
        self._lacking = None
        if trouble is None:
            del self._names[place]
        elif before is None and len(self._names) >= HELD_BACK_MAX:
            self._beyond = True
        else:
            self._names[place] = trouble
        if trouble is None or (before is None and place not in self._before):
            self._delay = HELD_BACK_SECONDS_MIN

    def passed_over(self, place: Place) -> Trouble | None:
        """Inside a freeze: the problem of a name that is not retried now."""
        trouble = self._names.get(place) if self.frozen else None
        return trouble if trouble is not None and trouble.stale else None

    def compare_all(self) -> None:
        """A comparison of everything begins: problems that still exist are recorded again."""
        self._before = self._before or self._names
        self._names = {}
        self._beyond = False
        self._lacking = None

    def due(self, now: float) -> bool:
        """Whether names are due to be retried."""
        return now >= self._due

    def again(self) -> Dirty:
        """Hints for the names to retry."""
        dirty = Dirty()
        for (number, name), trouble in self._names.items():
            if trouble.stale and name:
                dirty.add_name(number, name)
            elif trouble.stale:
                dirty.directories.add(number)
        return dirty

    def tried(self, now: float, seconds: float) -> None:
        """Record that they were retried, which took so long: the next retry is due later."""
        self._due = now + max(self._delay, limits.COMPARE_SHARE * seconds)
        self._delay = min(2 * self._delay, HELD_BACK_SECONDS_MAX)

    def summed_up(self, tree: Worktree) -> Lacking:
        """A summary of all problems, with the first names."""
        if self._lacking is None:
            self._before = {}
            self._forget_gone(tree)
            texts = self._describe(tree, stale=True), self._describe(tree, stale=False)
            trouble = "; ".join(filter(None, texts))
            text = "; ".join(filter(None, (trouble, self._meant)))
            self._lacking = Lacking(text, self.stale, trouble)
        if not self._lacking.stale:
            self._due = math.inf
        elif self._due == math.inf:
            self._due = clock.monotonic() + self._delay
        return self._lacking

    def _forget_gone(self, tree: Worktree) -> None:
        """Drop names in directories that are gone."""
        for place in [place for place in self._names if place[0] not in tree.by_inode]:
            del self._names[place]

    def _describe(self, tree: Worktree, *, stale: bool) -> str:
        found = [(p, t.problem) for p, t in self._names.items() if t.stale is stale]
        if not found:
            return ""
        shown = [
            f"{_path(tree, place)} ({problem})"
            for place, problem in sorted(found)[:HELD_BACK_SHOWN_MAX]
        ]
        more = len(found) - len(shown)
        text = ", ".join(shown) + (f" and {more} more" if more else "")
        return f"{'not read, as it was before: ' if stale else 'left out: '}{text}"


def _path(tree: Worktree, place: Place) -> str:
    """A path for a person, bounded and printable."""
    number, name = place
    parts = tree.by_inode[number].path()
    path = os.fsdecode(b"/".join([*parts, name] if name else parts) or b".")
    most = HELD_BACK_PATH_CHARACTERS_MAX
    return repr(path if len(path) <= most else f"…{path[-most:]}")
