"""Some paths of a snapshot, found without reading the rest of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

from diffkeeper.errors import NotFoundError
from diffkeeper.format import dirtree
from diffkeeper.format.entry import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from diffkeeper.format.entry import Entry

    Get = Callable[[bytes], bytes]


class Selection:
    """The names that are wanted in one directory; for a name without names of its own, everything
    below.
    """

    def __init__(self) -> None:
        self._names: dict[bytes, Selection] = {}

    @classmethod
    def of(cls, paths: Iterable[bytes]) -> Self:
        """The selection of paths below the top directory, see `volumes.path_arguments.check_path`.

        A path below another one that is wanted adds nothing.
        """
        top = cls()
        for path in sorted(paths, key=lambda path: path.count(b"/")):
            at = top._names
            for name in path.split(b"/"):
                known = at.get(name)
                if known is not None and not known._names:
                    break  # everything below is wanted
                at = at.setdefault(name, Selection())._names
        return top

    def within(self, name: bytes) -> Selection | None:
        """What is wanted in the directory of this name; None for all of it."""
        below = self._names[name]
        return below if below._names else None

    def entries(self, content: bytes, get: Get) -> Iterator[tuple[bytes, Entry]]:
        """The wanted names of a directory with this content (a Merkle root), and their entries."""
        for name in self._names:
            entry = dirtree.lookup(content, name, get)
            if entry is not None:
                yield name, entry


def require(paths: Iterable[bytes], content: bytes, get: Get) -> None:
    """Check that each path exists below a directory with this content; NotFoundError names one that
    doesn't.
    """
    for path in paths:
        names = path.split(b"/")
        at = content
        for number, name in enumerate(names):
            entry = dirtree.lookup(at, name, get)
            if entry is None:
                raise NotFoundError(f"{os.fsdecode(path)!r} is not in the snapshot")
            if number + 1 < len(names) and entry.kind is not Kind.DIRECTORY:
                above = os.fsdecode(b"/".join(names[: number + 1]))
                raise NotFoundError(
                    f"{os.fsdecode(path)!r} is not in the snapshot: {above!r} is no directory"
                )
            at = entry.content
