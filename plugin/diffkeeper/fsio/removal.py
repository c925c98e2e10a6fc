"""Removes a tree by descriptors: no link is followed, no mount below is entered."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from diffkeeper import limits
from diffkeeper.fsio import linux

# A removal stops when so many names cannot be removed; paths are cut to so many bytes.
REMOVAL_LEFT_MAX = 1_000

_Identity = tuple[int, int]  # device and inode number


@dataclass(slots=True)
class _DirectoryLevel:
    """A directory on the path from the top to the one that is being emptied."""

    name: bytes
    identity: _Identity
    below: list[bytes] = field(default_factory=list)  # directories that are still to be emptied
    stuck: set[bytes] = field(default_factory=set)


class Removal:
    """One removal. What cannot be removed is skipped and recorded in `left`, with the reason.

    One descriptor is open at a time, at any depth: the way up is `..`, and is taken only if it
    leads where the way down came from.
    """

    def __init__(self) -> None:
        self.left: list[tuple[str, OSError]] = []  # path below the parent, and why it stays
        self._levels: list[_DirectoryLevel] = []

    def run(self, parent: int, name: bytes) -> None:
        """Remove `name` in the directory `parent`, whatever it is; absent is not an error.

        Raises OSError when the tree moves meanwhile, or more than `REMOVAL_LEFT_MAX` names stay.
        """
        top = _DirectoryLevel(b"", _identity(parent), below=[name])
        self._levels = [top]
        current = os.dup(parent)
        try:
            while True:
                following = self._down(current) if self._levels[-1].below else self._up(current)
                if following < 0:
                    return
                os.close(current)
                current = following
        finally:
            os.close(current)

    def _down(self, current: int) -> int:
        """Enter the next directory; returns `current` again when there is none to enter."""
        level = self._levels[-1]
        name = level.below.pop()
        try:
            following = linux.open_directory_beneath(current, [name])
        except FileNotFoundError:
            return os.dup(current)
        except OSError as error:
            self._unlink(current, name, error)
            return os.dup(current)
        self._levels.append(_DirectoryLevel(name, _identity(following)))
        self._list(following)
        return following

    def _unlink(self, directory: int, name: bytes, refused: OSError | None = None) -> None:
        """Remove a name that is no directory; one that could not be entered stays, for that
        reason.
        """
        try:
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            pass
        except IsADirectoryError as error:
            self._stuck(name, refused or error)
        except OSError as error:
            self._stuck(name, error)

    def _list(self, directory: int) -> None:
        """Remove everything but directories; collect a window of those, without the ones that
        stay.
        """
        level = self._levels[-1]
        with os.scandir(directory) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if name in level.stuck:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    level.below.append(name)
                    if len(level.below) >= limits.OBSERVE_NAMES_MAX:
                        return
                else:
                    self._unlink(directory, name)

    def _up(self, current: int) -> int:
        """Remove the directory that was emptied; -1 at the top. Directories may be left in it."""
        if len(self._levels) == 1:
            return -1
        self._list(current)
        if self._levels[-1].below:
            return os.dup(current)
        parent = linux.open_parent(current)
        level = self._levels.pop()
        try:
            if _identity(parent) != self._levels[-1].identity:
                raise OSError(f"{os.fsdecode(level.name)!r} was moved while it was being removed")
            try:
                os.rmdir(level.name, dir_fd=parent)
            except FileNotFoundError:
                pass
            except OSError as error:
                # If something below stays, that is the reason, and it is recorded already.
                self._levels[-1].stuck.add(level.name)
                if not level.stuck:
                    self._stuck(level.name, error)
        except BaseException:
            os.close(parent)
            raise
        return parent

    def _stuck(self, name: bytes, error: OSError) -> None:
        self._levels[-1].stuck.add(name)
        path = b"/".join([*(level.name for level in self._levels[1:]), name])
        self.left.append((os.fsdecode(path[: limits.TOLD_PATH_BYTES_MAX]), error))
        if len(self.left) >= REMOVAL_LEFT_MAX:
            raise error


def _identity(fd: int) -> _Identity:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
