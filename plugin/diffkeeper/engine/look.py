"""A look at one name: what it is now, with its content where that may have changed.

What cannot be read of one file is told of that file, and stops no other: see `engine.held_back`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from diffkeeper import clock, limits
from diffkeeper.engine import attributes
from diffkeeper.engine.files import Why
from diffkeeper.engine.held_back import Trouble, UnreadableError, unreadable
from diffkeeper.engine.observation import Observation, Place, entry_of_directory
from diffkeeper.format.entry import Kind
from diffkeeper.fsio import inode
from diffkeeper.fsio.descent import Descent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from diffkeeper.capture.source import Source
    from diffkeeper.engine.files import Files
    from diffkeeper.engine.held_back import HeldBack
    from diffkeeper.engine.signatures import Index
    from diffkeeper.engine.still import Sums
    from diffkeeper.engine.worktree import Directory, Worktree


class Looker:
    """Looks at names, one by one; what else is to be looked at is noted. See `engine.observe`."""

    def __init__(
        self,
        worktree: Worktree,
        root_fd: int,
        source: Source,
        index: Index,
        nameless: dict[int, int],
        places: dict[int, Place],
        check: Callable[[], None],
        files: Files,
        held: HeldBack,
        *,
        still: bool,
        sums: Sums | None = None,
    ) -> None:
        """sums: notes what is listed, so that `stood_still` can tell afterwards."""
        self._tree = worktree
        self._root_fd = root_fd
        self._device = os.fstat(root_fd).st_dev
        self._descent = Descent(root_fd)
        self._source = source
        self._index = index
        # Inodes that no name was found for, by the time stamp that they had then.
        self._nameless = nameless
        # While names may move, a search proves nothing, and one that stands still follows.
        self._still = still
        # Where files were seen, until their signatures are taken over: newer than what those tell.
        self._places = places
        self._check = check
        self._files = files
        self._held = held
        self._sums = sums
        # Of the files that the round was told of, those whose content was seen to.
        self._read: set[int] = set()
        # Files that were not met at their known name, by what that is.
        self._missed: dict[int, Place] = {}
        # Files that lost their known name in this round: another one is looked at where it is met.
        self._sought: set[int] = set()
        self._seen: dict[int, set[bytes]] = {}
        # Directories of which every name was looked at in this round, in place of those names, and
        # the few of them that are to be looked at once more.
        self._whole: set[int] = set()
        self._again: set[tuple[int, bytes]] = set()
        self._told: set[int] = set()  # the files that the round was told of
        self._more: list[tuple[int, bytes]] = []
        self._unlisted: list[Directory] = []
        self._ended: list[tuple[Directory, Directory, bytes]] = []
        self._stuck: dict[Directory, set[bytes]] = {}
        self._unread: set[Directory] = set()  # nothing can be seen in them, or of them, now

    def _look(
        self, directory: Directory, fd: int, name: bytes, *, why: Why = Why.PLACE
    ) -> Iterator[Observation]:
        if self._is_seen(directory.inode, name):
            return
        if directory.inode not in self._whole:
            self._seen.setdefault(directory.inode, set()).add(name)
        self._again.discard((directory.inode, name))
        self._check()
        if trouble := self._held.passed_over((directory.inode, name)):
            yield Observation(directory, name, trouble=trouble)
            return
        try:
            with contextlib.ExitStack() as stack:
                with unreadable():
                    pin, status = stack.enter_context(inode.pinned(fd, name))
                yield from self._found_there(directory, name, pin, status, why)
        except FileNotFoundError:
            if not self._source.by_range and self._tree.lookup(directory, name) is None:
                # Who knows which file was written to under a name that came and went.
                self._tree.lost_links = True
            if self._tree.link_names:
                self._lost_name(directory, name, 0)
            self._unplace(directory, name, None)
            yield Observation(directory, name)
        except UnreadableError as error:
            yield self._stale(directory, name, str(error))
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # Something is mounted here: what it covers cannot be seen and stays as it was
            # recorded, what it shows is not ours.

    def _found_there(
        self, directory: Directory, name: bytes, pin: int, status: os.stat_result, why: Why
    ) -> Iterator[Observation]:
        if self._tree.link_names:
            self._lost_name(directory, name, status.st_ino)
        if stat.S_ISDIR(status.st_mode):
            yield from self._directory(directory, name, pin, status)
            return
        self._unplace(directory, name, None)
        try:
            yield self._file(directory, name, pin, status, why)
        except UnreadableError:
            # What changed in it was taken from the source, and is not known any more.
            self._source.release([status.st_ino])
            raise

    def _stale(self, directory: Directory, name: bytes, problem: str) -> Observation:
        """What cannot be read stays as it is recorded; a directory, with all that is in it."""
        child = directory.children.get(name)
        if child is not None:
            self._unread.add(child)
            child.listed = False
        return Observation(directory, name, trouble=Trouble(problem, stale=True))

    def _directory(
        self, parent: Directory, name: bytes, pin: int, status: os.stat_result
    ) -> Iterator[Observation]:
        number = status.st_ino
        if status.st_dev != self._device:
            # Another file system without a mount: not ours to look into.
            self._unplace(parent, name, None)
            trouble = Trouble("a file system of its own, such as a subvolume", stale=False)
            yield Observation(parent, name, trouble=trouble)
            return
        self._unplace(parent, name, number)
        known = self._tree.by_inode.get(number)
        if known is None and len(self._tree.by_inode) >= limits.DIRECTORIES_MAX:
            problem = f"one of more than {limits.DIRECTORIES_MAX} directories"
            yield self._stale(parent, name, problem)
            return
        listing = self._files.deep or (known is not None and not known.listed)
        if known is None:
            old = self._tree.lookup(parent, name)
            if old is not None and old.kind is not Kind.DIRECTORY:
                yield Observation(parent, name)  # the file that had the name
            same = old is not None and self._index.has_directory(
                number, parent.inode, name, old.content
            )
            known = self._tree.attach(number, parent, name, same=same)
            self._seen.pop(number, None)
            self._whole.discard(number)
            listing = True
        elif known.parent is not parent or known.name != name:
            if known.parent is not None:
                self._look_later(known.parent.inode, known.name)
            self._tree.move(known, parent, name)
        self._set_attributes(known, pin, status)
        # A directory that was removed and made anew may have the inode number, but not the watch.
        if self._source.watch(number, pin) or listing:
            self._unlisted.append(known)

    def _file(
        self, directory: Directory, name: bytes, pin: int, status: os.stat_result, why: Why
    ) -> Observation:
        # Before anything is told of it: a later change is hinted, an earlier one is seen.
        self._watch_new([status.st_ino])
        held = self._source.hold(status.st_ino)
        if status.st_ino in self._told:
            self._read.add(status.st_ino)
        self._nameless.pop(status.st_ino, None)
        with unreadable():
            if self._source.by_range and not held:
                if stat.S_ISREG(status.st_mode):
                    inode.await_change(pin)
                status = os.fstat(pin)
            seen_ns, known = clock.now_ns(), attributes.recordable(pin)
            found = Observation(directory, name, status, seen_ns, known.kept)
            if known.left_out:
                found.trouble = Trouble(known.left_out, stale=False)
            if stat.S_ISLNK(status.st_mode):
                found.target = inode.link_target(pin)
            elif stat.S_ISREG(status.st_mode):
                found.content = self._files.content(directory, name, pin, status, why, held=held)
        alone = status.st_nlink == 1
        if not alone:
            self._find_first_name(status.st_ino)
        self._places[status.st_ino] = Place(directory.inode, name, alone=alone)
        return found

    def _set_attributes(self, directory: Directory, pin: int, status: os.stat_result) -> None:
        """Take over what is seen of a directory itself; what cannot be read stays as it was."""
        trouble: Trouble | None = None
        try:
            with unreadable():
                known = attributes.recordable(pin)
            trouble = Trouble(known.left_out, stale=False) if known.left_out else None
            kept = known.kept
        except UnreadableError as error:
            trouble, kept = Trouble(str(error), stale=True), {}
        if not (trouble and trouble.stale and directory.attributes is not None):
            entry = entry_of_directory(status, kept, self._tree.stage.put)
            self._tree.set_attributes(directory, entry)
        self._held.note((directory.inode, b""), trouble)

    def _watch_new(self, inodes: list[int]) -> None:
        """Before files are read: see their changes, then who has them mapped already.

        Of a mapping that was there before the file was watched, no fault may tell any more.
        """
        if self._source.watch_new(inodes):
            self._files.see_mappings()

    def _unplace(self, parent: Directory, name: bytes, kept: int | None) -> None:
        """The directory known at a name is not there, unless its inode number is `kept`.

        It may turn up elsewhere in this round, and is forgotten only at its end.
        """
        child = parent.children.get(name)
        if child is not None and child.inode != kept:
            self._ended.append((child, parent, name))

    def _find_first_name(self, number: int) -> None:
        """A file that just got its second name: its first one is to become a link, too."""
        record, place = self._index.get(number), self._places.get(number)
        if place is not None and place.alone:
            inode, name = place.directory, place.name
            # It was seen in this round already, when it was a file with one name.
            self._seen.get(inode, set()).discard(name)
            self._again.add((inode, name))
        elif record is not None and not record.link_id:
            inode, name = record.parent_ino, record.name
        else:
            return
        if inode in self._tree.by_inode:
            self._look_later(inode, name)

    def _lost_name(self, directory: Directory, name: bytes, number: int) -> None:
        """What was written through a name that is gone shows at the other names of the file."""
        old = self._tree.lookup(directory, name)
        if old is None or old.kind is not Kind.LINK:
            return
        record = self._index.get(number)
        if record is not None and record.link_id == old.link_id:
            return
        names = self._tree.link_names.get(old.link_id, set())
        names.discard((directory.inode, name))
        for number, other in names:
            if number in self._tree.by_inode:
                self._look_later(number, other)

    def _look_later(self, inode: int, name: bytes) -> None:
        if not self._is_seen(inode, name):
            self._more.append((inode, name))

    def _is_seen(self, inode: int, name: bytes) -> bool:
        """Whether a name was looked at in this round, and need not be again."""
        if inode in self._whole:
            return (inode, name) not in self._again
        return name in self._seen.get(inode, ())
