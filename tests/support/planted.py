"""A source that loses hints on purpose: only tests can make one, by wrapping a rig's own."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffkeeper.sources.base import Dirty, Source
    from tests.support.capture_rig import CaptureRig


class Forgetful:
    """Drops one hint in `every`, of one level: `chunk`, `file` or `name`."""

    def __init__(self, real: Source, level: str, every: int, seed: str) -> None:
        self._real = real
        self._random = random.Random(f"{seed}/{level}")
        self._every = every
        self._forget: Callable[[Dirty], Dirty] = getattr(self, f"_{level}")
        self.hints = 0
        self.dropped: list[str] = []

    def __getattr__(self, name: str) -> object:
        """Everything but draining is the real one's."""
        return getattr(self._real, name)

    def drain(self, *, frozen: bool = False) -> Dirty:
        """As the real one, but for what is forgotten."""
        return self._forget(self._real.drain(frozen=frozen))

    def _drop(self, what: str) -> bool:
        self.hints += 1
        if self._random.random() * self._every >= 1:
            return False
        self.dropped.append(what)
        return True

    def _chunk(self, dirty: Dirty) -> Dirty:
        for inode, changed in dirty.files.items():
            for kind in (changed.chunks, changed.windows):
                kind -= {part for part in sorted(kind) if self._drop(f"#{inode}, part {part}")}
        return dirty

    def _file(self, dirty: Dirty) -> Dirty:
        for inode in [inode for inode in dirty.files if self._drop(f"#{inode}")]:
            del dirty.files[inode]
        return dirty

    def _name(self, dirty: Dirty) -> Dirty:
        for directory, names in dirty.names.items():
            names -= {name for name in sorted(names) if self._drop(f"#{directory}, {name!r}")}
        return dirty


def plant(rig: CaptureRig, level: str, every: int, seed: str) -> Forgetful:
    """Wrap the source of a rig that has captured nothing yet."""
    forgetful = Forgetful(rig.watched.watcher.source, level, every, seed)
    rig.watched.watcher.source = forgetful  # type: ignore[assignment]  # delegates all but drain
    return forgetful


def heal(rig: CaptureRig) -> None:
    """Take the fault out again, and make the regular comparison due."""
    forgetful = rig.watched.watcher.source
    assert isinstance(forgetful, Forgetful)
    rig.watched.watcher.source = forgetful._real
    rig.watched.comparison.due = 0.0
