"""Names of which a volume's newest state lacks something, because it cannot be read or recorded.

One odd file stops no other: whatever can be recorded is. Of a file that cannot be read now, such as
one with a bad block or one that somebody holds a lease on, the newest content known stands, and the
snapshot is `fuzzy`: it is no instant of that file. Such names are tried again, ever more seldom,
and the cost of trying is bounded. Of what can never be recorded, such as attributes that are too
large, the rest is, and the snapshot says so.
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
from diffkeeper.snapshot.exclusions import note
from diffkeeper.sources.base import Dirty

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diffkeeper.format.records import SnapshotRecord
    from diffkeeper.snapshot.worktree import Worktree

HELD_BACK_MAX = 1_000  # names of a volume that could not be read or recorded as a whole
HELD_BACK_SHOWN_MAX = 10
HELD_BACK_PATH_CHARACTERS_MAX = 200
HELD_BACK_SECONDS_MIN = 5.0  # until such names are tried again; longer each time
HELD_BACK_SECONDS_MAX = 300.0

# Of the daemon, or no error of a file at all.
_NOT_OF_A_FILE = frozenset({errno.ENOENT, errno.EXDEV, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_OF_THE_DISK = frozenset(
    {errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT}
)
_REASONS = {errno.EWOULDBLOCK: "another process holds a lease on it"}


class UnreadableFileError(DiffKeeperError):
    """One file cannot be read; the others can."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is the matter with one name; `stale`: what is recorded of it is not what is there."""

    problem: str
    stale: bool


@dataclass(frozen=True, slots=True)
class Lacking:
    """What a state lacks of what is on disk, in a sentence; `stale`: it is of no one instant."""

    text: str
    stale: bool
    trouble: str = ""  # the same without what is meant to be left out

    def is_told(self, head: SnapshotRecord) -> bool:
        """Whether that snapshot says the same."""
        return (
            self.text in head.cause if self.text else head.consistency == "fuzzy" or not head.cause
        )


Place = tuple[int, bytes]  # a directory's inode number and a name in it; no name: itself


def reason(error: OSError) -> str:
    """What an error of one file is, for a person."""
    return _REASONS.get(error.errno or 0) or error.strerror or str(error)


def of_the_disk(error: OSError) -> bool:
    """Whether what was read is broken, and no limit of this process was met."""
    return error.errno in _OF_THE_DISK


@contextlib.contextmanager
def unreadable() -> Iterator[None]:
    """Around reading one file alone: raises UnreadableError for what stops no other file."""
    try:
        yield
    except OSError as error:
        if error.errno in _NOT_OF_A_FILE:
            raise
        raise UnreadableFileError(reason(error)) from error


class HeldBack:
    """The names of one volume that something is the matter with; bounded.

    `due` may be called from any thread, the rest only by the capture under way.
    """

    def __init__(self, exclude: Sequence[str] = ()) -> None:
        """exclude: what is meant to be left out, see `snapshot.exclusions`."""
        self._meant = note(exclude)
        self._names: dict[Place, Trouble] = {}
        self._before: dict[Place, Trouble] = {}  # a comparison under way
        self._beyond = False  # there were more than are remembered
        self._delay = HELD_BACK_SECONDS_MIN
        self._due = math.inf
        self._lacking: Lacking | None = None
        self.frozen = False  # inside a freeze nothing is tried again

    @property
    def stale(self) -> bool:
        """Whether something that is recorded is not what is there."""
        return self._beyond or any(trouble.stale for trouble in self._names.values())

    @property
    def beyond(self) -> bool:
        """Whether there were more than are remembered: only a comparison tells whether they are."""
        return self._beyond

    def record(self, place: Place, trouble: Trouble | None) -> None:
        """What a look has found; None: nothing is the matter with the name any more."""
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
        """Inside a freeze: what was the matter when it was looked at before it."""
        trouble = self._names.get(place) if self.frozen else None
        return trouble if trouble is not None and trouble.stale else None

    def compare_all(self) -> None:
        """Everything is about to be looked at: what is still the matter is noted again."""
        self._before = self._before or self._names
        self._names = {}
        self._beyond = False
        self._lacking = None

    def due(self, now: float) -> bool:
        """Whether names are to be tried again."""
        return now >= self._due

    def again(self) -> Dirty:
        """The names to try again."""
        dirty = Dirty()
        for (number, name), trouble in self._names.items():
            if trouble.stale and name:
                dirty.add_name(number, name)
            elif trouble.stale:
                dirty.directories.add(number)
        return dirty

    def tried(self, now: float, seconds: float) -> None:
        """They were, which took so long: not again soon, for a small share of the time."""
        self._due = now + max(self._delay, limits.COMPARE_SHARE * seconds)
        self._delay = min(2 * self._delay, HELD_BACK_SECONDS_MAX)

    def summed_up(self, tree: Worktree) -> Lacking:
        """All of it, with the first names."""
        if self._lacking is None:
            self._before = {}
            self._forget_gone(tree)
            texts = self._told(tree, stale=True), self._told(tree, stale=False)
            trouble = "; ".join(filter(None, texts))
            text = "; ".join(filter(None, (trouble, self._meant)))
            self._lacking = Lacking(text, self.stale, trouble)
        if not self._lacking.stale:
            self._due = math.inf
        elif self._due == math.inf:
            self._due = clock.monotonic() + self._delay
        return self._lacking

    def _forget_gone(self, tree: Worktree) -> None:
        """Names in directories that are no more."""
        for place in [place for place in self._names if place[0] not in tree.by_inode]:
            del self._names[place]

    def _told(self, tree: Worktree, *, stale: bool) -> str:
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
    """For a person, bounded and printable."""
    number, name = place
    parts = tree.by_inode[number].path()
    path = os.fsdecode(b"/".join([*parts, name] if name else parts) or b".")
    most = HELD_BACK_PATH_CHARACTERS_MAX
    return repr(path if len(path) <= most else f"…{path[-most:]}")
