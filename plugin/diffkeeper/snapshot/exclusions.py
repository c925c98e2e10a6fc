"""Names that are left out of a volume's history: by globs of paths below its top directory.

A glob is matched one component at a time, so that what is known of a directory's path serves all
names in it: the places in all globs that the path has come to.
"""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Places = frozenset[tuple[int, int]]  # numbers of a glob, and of the component that is to match next
_ANY_DEPTH = "**"
_NOWHERE: Places = frozenset()


class Exclusions:
    """The globs of one volume, as its option has them. False where there are none."""

    def __init__(self, globs: Sequence[str] = ()) -> None:
        self._globs = [_components(glob) for glob in globs]
        self.top = self._reached((number, 0) for number in range(len(globs)))

    def __bool__(self) -> bool:
        return bool(self._globs)

    def below(self, places: Places, name: bytes) -> Places:
        """Where a name in a directory that has come to `places` has come to."""
        text = os.fsdecode(name)
        found: list[tuple[int, int]] = []
        for number, at in places:
            component = self._globs[number][at]
            if component == _ANY_DEPTH:
                found.append((number, at))
            elif fnmatchcase(text, component):
                found.append((number, at + 1))
        return self._reached(found) if found else _NOWHERE

    def match(self, places: Places, name: bytes) -> bool:
        """Whether that name is left out, with all that is in it."""
        return any(
            at == len(self._globs[number]) - 1 and fnmatchcase(os.fsdecode(name), component)
            for number, at in places
            if (component := self._globs[number][at]) != _ANY_DEPTH
        )

    def within(self, path: Sequence[bytes]) -> Callable[[bytes], bool]:
        """Tells of names in the directory at this path, which is not left out itself."""
        places = self.top
        for name in path:
            places = self.below(places, name)
        return lambda name: self.match(places, name)

    def _reached(self, places: Iterable[tuple[int, int]]) -> Places:
        """These, and what follows where none or more directories may be; ends are left out."""
        found = set()
        for number, first in places:
            at, components = first, self._globs[number]
            while at < len(components):
                found.add((number, at))
                if components[at] != _ANY_DEPTH:
                    break
                at += 1
        return frozenset(found)


def _components(glob: str) -> list[str]:
    parts = glob.split("/")
    # All that is below a directory, and not the directory itself.
    return [*parts, "*"] if parts[-1] == _ANY_DEPTH else parts


def note(globs: Sequence[str]) -> str:
    """What a snapshot says of them."""
    return f"left out by the option exclude ({','.join(globs)})" if globs else ""
