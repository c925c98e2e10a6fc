"""Scans one name: what it is now, with its content where that may have changed.

An error of one file is recorded for that file, and does not stop the others: see
`snapshot.held_back`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from diffkeeper import clock
from diffkeeper.format import xattrs
from diffkeeper.format.entry import Kind
from diffkeeper.fsio import inode
from diffkeeper.fsio.descent import Descent
from diffkeeper.snapshot import attributes
from diffkeeper.snapshot.entries import entry_of
from diffkeeper.snapshot.file_reader import Why, is_at
from diffkeeper.snapshot.held_back import Trouble, UnreadableFileError, unreadable
from diffkeeper.snapshot.observation import Observation, SeenName

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffkeeper.snapshot.file_reader import FileReader
    from diffkeeper.snapshot.scan_context import Bounds, ScanContext
    from diffkeeper.snapshot.stillness import NameSums
    from diffkeeper.snapshot.worktree import Directory

DIRECTORIES_MAX = 2_000_000  # of one volume, at some 600 bytes of memory each


class NameScanner:
    """Scans names one by one, and collects what else has to be scanned. See `snapshot.scanner`."""

    def __init__(
        self,
        context: ScanContext,
        files: FileReader,
        bounds: Bounds,
        *,
        still: bool,
        sums: NameSums | None = None,
    ) -> None:
        """still: writers are frozen, or there will be no freeze.

        sums: records what is listed, so that `stood_still` can compare it afterwards.
        """
        self._tree = context.tree
        self._root_fd = context.root_fd
        self._device = os.fstat(context.root_fd).st_dev
        self._descent = Descent(context.root_fd)
        self._source = context.source
        self._index = context.index
        self._nameless = context.nameless
        # While names may move, a search proves nothing; another one follows in the freeze.
        self._still = still
        self._seen_names = context.seen_names
        self._check = bounds.check
        self._files = files
        self._held = context.held
        self._sums = sums
        # Hinted files of this round whose content was read or proved unchanged.
        self._read: set[int] = set()
        # Files that were not found at their known name, by the state of that name.
        self._missed: dict[int, SeenName] = {}
        # Files whose recorded name is gone: they are scanned under any other name.
        self._sought: set[int] = set()
        self._seen: dict[int, set[bytes]] = {}
        # Directories of which all names were scanned in this round, instead of the set of names;
        # and the few names that have to be scanned once more.
        self._whole: set[int] = set()
        self._again: set[tuple[int, bytes]] = set()
        self._hints: set[int] = set()  # the files that the round got as hints
        self._more: list[tuple[int, bytes]] = []
        self._unlisted: list[Directory] = []
        self._listed: list[Directory] = []  # for the first time, in this round
        self._stuck: dict[Directory, set[bytes]] = {}
        self._unread: set[Directory] = set()  # directories that cannot be read now

    def _scan_name(
        self, directory: Directory, fd: int, name: bytes, *, why: Why = Why.PLACE
    ) -> Iterator[Observation]:
        if self._is_seen(directory.inode, name):
            return
        if directory.inode not in self._whole:
            self._seen.setdefault(directory.inode, set()).add(name)
        self._again.discard((directory.inode, name))
        self._check()
        if self._tree.excluded.match(directory, name):
            yield from self._gone(directory, name)
            return
        if trouble := self._held.passed_over((directory.inode, name)):
            yield Observation(directory, name, trouble=trouble)
            return
        try:
            with contextlib.ExitStack() as stack:
                with unreadable():
                    pin, status = stack.enter_context(inode.pinned(fd, name))
                yield from self._found_there(directory, name, pin, status, why)
        except FileNotFoundError:
            if self._came(directory, name) or self._tree.lookup(directory, name) is None:
                self._passed()
            yield from self._gone(directory, name)
        except UnreadableFileError as error:
            yield self._stale(directory, name, str(error))
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # Something is mounted here: what it covers cannot be seen and stays as recorded, what
            # it shows is another file system's.

    def _came(self, directory: Directory, name: bytes) -> bool:
        """Whether something was given this name since it was last scanned."""
        return (directory.inode, name) in self._files.came

    def _passed(self) -> None:
        """A name came and went: any file may have been written under it, so ask for a
        comparison.
        """
        if not self._source.by_range:
            self._tree.lost_links = True

    def _gone(self, directory: Directory, name: bytes) -> Iterator[Observation]:
        """Record that a name does not exist, or has nothing to be recorded."""
        if self._tree.link_names:
            self._lost_name(directory, name, 0)
        self._unplace(directory, name, None)
        yield Observation(directory, name)

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
        except UnreadableFileError:
            # Its hints were taken from the source, and are lost now.
            self._source.release([status.st_ino])
            raise

    def _stale(self, directory: Directory, name: bytes, problem: str) -> Observation:
        """What cannot be read stays as recorded; a directory with all that is in it."""
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
            # Another file system without a mount: not part of the volume.
            self._unplace(parent, name, None)
            trouble = Trouble("a file system of its own, such as a subvolume", stale=False)
            yield Observation(parent, name, trouble=trouble)
            return
        self._unplace(parent, name, number)
        known = self._tree.by_inode.get(number)
        if known is None and len(self._tree.by_inode) >= DIRECTORIES_MAX:
            problem = f"one of more than {DIRECTORIES_MAX} directories"
            yield self._stale(parent, name, problem)
            return
        listing = self._files.deep or (known is not None and not known.listed)
        if known is None:
            old = self._tree.lookup(parent, name)
            if old is not None and old.kind is not Kind.DIRECTORY:
                yield Observation(parent, name)  # the file that had this name
            same = old is not None and self._index.has_directory(
                number, parent.inode, name, old.content
            )
            known = self._tree.attach(number, parent, name, same=same)
            self._passed()  # its content before it was watched
            self._seen.pop(number, None)
            self._whole.discard(number)
            listing = True
        elif known.parent is not parent and known.is_above(parent):
            # Its parent was below it, and has moved, too: find that first.
            self._await_place(parent, name)
            return
        elif parent.children.get(name) is not known:
            if known.parent is not None:
                self._scan_later(known.parent.inode, known.name)
            self._tree.move(known, parent, name)
            if self._tree.excluded:
                self._list_below(known)
        self._tree.missing.discard(known)
        self._set_attributes(known, pin, status)
        if self._source.watch(number, pin):
            # A directory that was removed and made again may have the same inode number, but no
            # watch.
            known.listed = False
        if listing or not known.listed:
            self._unlisted.append(known)

    def _await_place(self, directory: Directory, name: bytes) -> None:
        """Scan a name again later, once the place of its directory is known."""
        self._seen.get(directory.inode, set()).discard(name)
        self._again.add((directory.inode, name))
        self._stuck.setdefault(directory, set()).add(name)
        if directory.parent is not None:
            self._scan_later(directory.parent.inode, directory.name)

    def _list_below(self, directory: Directory) -> None:
        """After a move: scan all below, since other names may be left out now."""
        stack = [directory]
        while stack:
            at = stack.pop()
            at.listed = False
            self._seen.pop(at.inode, None)
            self._whole.discard(at.inode)
            self._unlisted.append(at)
            stack.extend(
                child
                for name, child in at.children.items()
                if not self._tree.excluded.match(at, name)
            )

    def _file(
        self, directory: Directory, name: bytes, pin: int, status: os.stat_result, why: Why
    ) -> Observation:
        # Before it is reported: a later change is hinted, an earlier one is seen.
        self._watch_new([status.st_ino])
        held = self._source.all_seen(status.st_ino)
        if status.st_ino in self._hints:
            self._read.add(status.st_ino)
        self._nameless.pop(status.st_ino, None)
        record = self._index.get(status.st_ino) if self._came(directory, name) else None
        if record is not None and is_at(record, directory, name):
            self._passed()  # it was here before: what was there has gone
        anew = self._source.by_range and not held
        with unreadable():
            if stat.S_ISREG(status.st_mode):
                with inode.reading(pin) as fd:
                    if anew:
                        inode.await_change(fd)
                        status = os.fstat(fd)
                    found = _observed(directory, name, fd, status)
                    found.content = self._files.content(directory, name, fd, status, why, held=held)
            else:
                status = os.fstat(pin) if anew else status
                found = _observed(directory, name, pin, status)
                if stat.S_ISLNK(status.st_mode):
                    found.target = inode.link_target(pin)
        alone = status.st_nlink == 1
        if not alone:
            self._find_first_name(status.st_ino)
        self._seen_names[status.st_ino] = SeenName(directory.inode, name, alone=alone)
        return found

    def _set_attributes(self, directory: Directory, pin: int, status: os.stat_result) -> None:
        """Record the attributes of a directory itself; those that cannot be read stay."""
        trouble: Trouble | None = None
        try:
            with unreadable():
                known = attributes.recordable(pin)
            trouble = Trouble(known.left_out, stale=False) if known.left_out else None
            kept = known.kept
        except UnreadableFileError as error:
            trouble, kept = Trouble(str(error), stale=True), {}
        if not (trouble and trouble.stale and directory.attributes is not None):
            node = self._tree.stage.put(xattrs.encode(kept)) if kept else b""
            entry = entry_of(status, Kind.DIRECTORY, node)
            self._tree.set_attributes(directory, entry)
        self._held.record((directory.inode, b""), trouble)

    def _watch_new(self, inodes: list[int]) -> None:
        """Before files are read: watch them, then see which are mapped already.

        A mapping that existed before the file was watched may cause no more page faults.
        """
        if self._source.watch_new(inodes):
            self._files.see_mappings()

    def _unplace(self, parent: Directory, name: bytes, kept: int | None) -> None:
        """The directory known at a name is not there, unless its inode number is `kept`.

        It may be found elsewhere in this round, and is dropped only at its end.
        """
        child = parent.children.get(name)
        if child is not None and child.inode != kept:
            self._tree.missing.add(child)

    def _find_first_name(self, number: int) -> None:
        """Find the first name of a file that just got a second one: it becomes a link, too."""
        place = self._seen_names.get(number)
        if place is None and (record := self._index.get(number)) is not None:
            place = SeenName(record.parent_ino, record.name, alone=not record.link_id)
        if place is None or not place.alone:
            return
        # It may have been scanned in this round already, when it had one name.
        self._seen.get(place.directory, set()).discard(place.name)
        self._again.add((place.directory, place.name))
        if place.directory in self._tree.by_inode:
            self._scan_later(place.directory, place.name)

    def _lost_name(self, directory: Directory, name: bytes, number: int) -> None:
        """A file lost a name: scan its other names, where writes through the lost one show."""
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
                self._scan_later(number, other)

    def _scan_later(self, inode: int, name: bytes) -> None:
        if not self._is_seen(inode, name):
            self._more.append((inode, name))

    def _is_seen(self, inode: int, name: bytes) -> bool:
        """Whether a name was scanned in this round, and need not be again."""
        if inode in self._whole:
            return (inode, name) not in self._again
        return name in self._seen.get(inode, ())


def _observed(directory: Directory, name: bytes, pin: int, status: os.stat_result) -> Observation:
    """What is known of a file without its content."""
    seen_ns, known = clock.now_ns(), attributes.recordable(pin)
    found = Observation(directory, name, status, seen_ns, known.kept)
    if known.left_out:
        found.trouble = Trouble(known.left_out, stale=False)
    return found
