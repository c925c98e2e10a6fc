"""Names that are left out of a volume's history, by globs of paths below its top directory.

A glob is matched one component at a time, so that the match state of a directory serves all names
in it: the positions in all globs that the path has reached.
"""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Positions = frozenset[tuple[int, int]]  # positions: numbers of globs and their next components
_ANY_DEPTH = "**"
_NOWHERE: Positions = frozenset()


class Exclusions:
    """The globs of one volume's option `exclude`. False if there are none."""

    def __init__(self, globs: Sequence[str] = ()) -> None:
        self._globs = [_components(glob) for glob in globs]
        self.top = self._reached((number, 0) for number in range(len(globs)))

    def __bool__(self) -> bool:
        return bool(self._globs)

    def below(self, positions: Positions, name: bytes) -> Positions:
        """The positions after one more name, in a directory with these `positions`."""
        text = os.fsdecode(name)
        found: list[tuple[int, int]] = []
        for number, at in positions:
            component = self._globs[number][at]
            if component == _ANY_DEPTH:
                found.append((number, at))
            elif fnmatchcase(text, component):
                found.append((number, at + 1))
        return self._reached(found) if found else _NOWHERE

    def match(self, positions: Positions, name: bytes) -> bool:
        """Whether the name is left out, with everything in it."""
        return any(
            at == len(self._globs[number]) - 1 and fnmatchcase(os.fsdecode(name), component)
            for number, at in positions
            if (component := self._globs[number][at]) != _ANY_DEPTH
        )

    def within(self, path: Sequence[bytes]) -> Callable[[bytes], bool]:
        """A predicate for names in the directory at this path, which is not left out itself."""
        positions = self.top
        for name in path:
            positions = self.below(positions, name)
        return lambda name: self.match(positions, name)

    def _reached(self, positions: Iterable[tuple[int, int]]) -> Positions:
        """The positions, and those after `**`, which may match no directory; without final ones."""
        found = set()
        for number, first in positions:
            at, components = first, self._globs[number]
            while at < len(components):
                found.add((number, at))
                if components[at] != _ANY_DEPTH:
                    break
                at += 1
        return frozenset(found)


def _components(glob: str) -> list[str]:
    parts = glob.split("/")
    # `directory/**` is everything below a directory, but not the directory itself.
    return [*parts, "*"] if parts[-1] == _ANY_DEPTH else parts


def cause_of(globs: Sequence[str]) -> str:
    """The text about the globs in a snapshot's `cause`."""
    return f"left out by the option exclude ({','.join(globs)})" if globs else ""
