"""Scans what hints point to: lists directories, takes metadata, reads changed content.

Nothing here follows a link, crosses a mount, or opens anything but directories and regular files. A
hint that no longer fits what is on disk widens the search; it never narrows it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from diffkeeper import limits
from diffkeeper.format.entry import EMPTY
from diffkeeper.fsio import inode
from diffkeeper.snapshot.file_reader import Why, unmoved
from diffkeeper.snapshot.held_back import of_the_disk, reason
from diffkeeper.snapshot.listing import Listing
from diffkeeper.snapshot.name_scanner import NameScanner
from diffkeeper.snapshot.observation import LostError, Observation, SeenName
from diffkeeper.snapshot.worktree import Directory, depths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from diffkeeper.format.records import IndexRecord
    from diffkeeper.snapshot.observation import UnseenFiles
    from diffkeeper.snapshot.stillness import NameSums
    from diffkeeper.sources.base import Dirty


class Scanner(NameScanner):
    """One round of scanning. Its bounds may raise to end it early."""

    def run(self, dirty: Dirty, unseen: UnseenFiles) -> Iterator[Observation]:
        """Observations of everything that `dirty` and `unseen` point to.

        Raises LostError when the live directory was deleted. A caller that stops early must not
        record any of them: what was listed is listed again the next time.
        """
        try:
            yield from self._run(dirty, unseen)
            self._listed.clear()
        finally:
            self._descent.close()
            for directory in self._listed:
                directory.listed = False

    def _run(self, dirty: Dirty, unseen: UnseenFiles) -> Iterator[Observation]:
        if os.fstat(self._root_fd).st_nlink == 0:
            raise LostError("the live directory was deleted while it was mounted")
        self._files.changed, self._files.unseen = dirty.files, unseen
        self._files.came = dirty.came
        self._hints = {*dirty.files, *unseen.mapped, *unseen.opened}
        if dirty.everything:
            self._files.deep = True
            self._unlisted.append(self._tree.root)
        else:
            yield from self._hinted(dirty)
        for number in unseen.mapped:
            yield from self._inode(number, sure=False)
        for number in unseen.opened - unseen.mapped:
            yield from self._inode(number, sure=True)
        yield from self._found()
        for number in dirty.files:
            yield from self._inode(number, sure=False)
        yield from self._found()
        yield from self._elsewhere()
        self._not_found(number for number in dirty.files if number not in self._read)
        self._finish()

    def stood_still(self, sums: NameSums, compare: Iterable[int]) -> bool:
        """Whether all directories that were recorded in `sums` are unchanged, by their timestamps.

        compare: inode numbers of those that have to be among them.
        """
        if not all(number in sums for number in compare):
            return False
        with contextlib.closing(self._descent):
            for number in sums.directories:
                directory = self._tree.by_inode.get(number)
                if directory is None:
                    return False
                with self._opened(directory) as fd:
                    skip = self._skipped(directory)
                    if fd is None or not sums.same(number, fd, self._check, skip):
                        return False
        return True

    def is_news(self, seen: Observation, copied: dict[tuple[int, bytes], Observation]) -> bool:
        """Whether a name differs from its last observation, in this freeze or before it.

        copied: the newest observation of each place in this freeze; this one is added to it.
        """
        place = seen.directory.inode, seen.name
        before = copied.get(place)
        copied[place] = seen
        if seen.stale:
            return False
        if before is not None:
            return not before.agrees(seen, self._tree.stage.get)
        if seen.status is None:
            return self._tree.lookup(seen.directory, seen.name) is not None
        record = self._index.get(seen.status.st_ino)
        return record is None or not seen.is_as(record)

    def _not_found(self, numbers: Iterable[int]) -> None:
        """Handle changed files that were found nowhere: moved during the search, or removed.

        While names may move they are searched for again. Otherwise they have left the volume, and
        one that comes back is read as a whole.
        """
        for number in numbers:
            if not self._still and number not in self._tree.by_inode:
                self._give_back(number)
            else:
                self._source.release([number])

    def _found(self) -> Iterator[Observation]:
        """Scan what was found on the way, until nothing new turns up."""
        before: dict[Directory, int] = {}
        while True:
            while self._unlisted or self._more:
                while self._unlisted:
                    yield from self._list(self._unlisted.pop())
                more, self._more = self._more, []
                yield from self._names(_grouped(more))
            stuck = {directory: len(names) for directory, names in self._stuck.items()}
            if not stuck or stuck == before:
                break
            before = stuck
            yield from self._unstick()

    def _finish(self) -> None:
        while self._tree.missing:
            for number in self._tree.drop(self._tree.missing.pop()):
                self._source.unwatch(number)
                self._index.drop_directory(number)
        for directory, names in self._stuck.items():
            if self._below_unread(directory):
                continue
            if directory.inode in self._tree.by_inode:
                # It was moved during the search; the hint of the move is on its way.
                self._source.give_back(directory.inode, names)

    def _below_unread(self, directory: Directory) -> bool:
        """Whether it cannot be reached because a directory above it cannot be read.

        Once that one can be read, everything down to it is listed again.
        """
        way: list[Directory] = []
        at: Directory | None = directory
        while at is not None and at not in self._unread:
            way.append(at)
            at = at.parent
        if at is None:
            return False
        for each in way:
            each.listed = False
        return True

    def _unstick(self) -> Iterator[Observation]:
        """Handle directories whose place was not known yet, such as below one that was moved."""
        stuck, self._stuck = self._stuck, {}
        yield from self._names({directory.inode: names for directory, names in stuck.items()})

    def _hinted(self, dirty: Dirty) -> Iterator[Observation]:
        for number in dirty.directories:
            directory = self._tree.by_inode.get(number)
            if directory is not None:
                self._refresh(directory)
        yield from self._names(dirty.names)
        for number in dirty.compare:
            self._check()
            directory = self._tree.by_inode.get(number)
            if directory is not None:
                yield from self._list(directory)
            else:
                self._source.unwatch(number)  # it is not in the volume any more

    def _refresh(self, directory: Directory) -> None:
        with self._opened(directory) as opened:
            if opened is None:
                self._misplaced(directory, set())

    def _names(self, names: dict[int, set[bytes]]) -> Iterator[Observation]:
        """Scan names, those near the root first, so that moved parents are found first."""
        known = [self._tree.by_inode[number] for number in names if number in self._tree.by_inode]
        for directory in sorted(known, key=depths(known).__getitem__):
            if directory.inode not in self._tree.by_inode:
                continue
            with self._opened(directory) as opened:
                if opened is None:
                    self._misplaced(directory, names[directory.inode])
                    continue
                if not directory.listed:
                    self._unlisted.append(directory)
                if self._source.by_range:
                    kept = names[directory.inode]
                    if skip := self._skipped(directory):
                        kept = {name for name in kept if not skip(name)}
                    found = [_status(opened, name) for name in kept]
                    self._watch_new([s.st_ino for s in found if s and not stat.S_ISDIR(s.st_mode)])
                for name in names[directory.inode]:
                    yield from self._scan_name(directory, opened, name, why=Why.NAME)

    def _misplaced(self, directory: Directory, names: set[bytes]) -> None:
        """A directory is not at its place: scan that place, and its names later."""
        if directory.parent is None:
            raise LostError("the live directory was replaced while it was mounted")
        self._scan_later(directory.parent.inode, directory.name)
        self._stuck.setdefault(directory, set()).update(names)

    @contextmanager
    def _opened(self, directory: Directory) -> Iterator[int | None]:
        """The directory, opened for the block; None if it is not the known one any more."""
        fd = self._open(directory)
        try:
            yield fd
        finally:
            if fd is not None:
                os.close(fd)

    def _open(self, directory: Directory) -> int | None:
        try:
            fd = self._descent.open(directory)
        except OSError:
            # It is gone, or replaced by a link, or covered by a mount: not the known directory.
            return None
        status = os.fstat(fd)
        if status.st_ino != directory.inode or status.st_nlink == 0:
            os.close(fd)
            return None
        self._set_attributes(directory, fd, status)
        return fd

    def _inode(self, number: int, *, sure: bool) -> Iterator[Observation]:
        """Scan a file known by its inode number; `sure`: even if its signature is unchanged."""
        if number in self._read:
            return
        record, place = self._index.get(number), self._seen_names.get(number)
        if place is None and record is not None:
            if self._still and self._nameless.get(number) == record.ctime_ns:
                return
            place = SeenName(record.parent_ino, record.name, alone=not record.link_id)
        elif place is None:
            if self._index.overflowed:
                self._search_all()
            else:
                # The hint of its creation is on its way; the file is read as a whole then.
                self._source.release([number])
            return
        self._missed[number] = place
        directory = self._tree.by_inode.get(place.directory)
        if directory is None:
            return
        with self._opened(directory) as opened:
            if opened is None:
                self._misplaced(directory, {place.name})
                return
            status = _status(opened, place.name)
            if status is None or status.st_ino != number:
                return
            if sure and self._same(number, record, status):
                del self._missed[number]
            else:
                yield from self._scan_name(directory, opened, place.name)

    def _same(self, number: int, record: IndexRecord | None, status: os.stat_result) -> bool:
        if record is None or number in self._seen_names:
            return False
        return unmoved(record, status, self._files.trust.granule_ns)

    def _give_back(self, number: int) -> None:
        if number in self._files.changed:
            self._source.give_back_file(number, self._files.changed[number])

    def _elsewhere(self) -> Iterator[Observation]:
        """Search for the files that were not found at their known names: moved or removed.

        Every change of a name is hinted, so a file without other names is removed, or outside.
        """
        for number, place in self._missed.items():
            if number in self._read:
                continue
            record = self._index.get(number)
            if not self._source.by_range:
                self._search(number, record)
            elif self._still and not place.alone:
                link_id = record.link_id if record is not None else 0
                others = self._tree.link_names.get(link_id, set())
                others.discard((place.directory, place.name))
                for parent, name in others:
                    if parent in self._tree.by_inode:
                        self._scan_later(parent, name)
                if not others:
                    self._search(number, record)
        self._missed.clear()
        yield from self._found()

    def _search(self, number: int, record: IndexRecord | None) -> None:
        """A file lost its known name: compare everything once, which finds any other name."""
        if not self._still:
            return
        self._nameless[number] = record.ctime_ns if record is not None else 0
        self._sought.add(number)
        self._search_all()

    def _search_all(self) -> None:
        if not self._files.deep:
            self._files.deep = True
            self._unlisted.append(self._tree.root)

    def _list(self, directory: Directory) -> Iterator[Observation]:
        """List a directory and scan every name that its signature does not prove unchanged."""
        with self._opened(directory) as fd:
            if fd is None:
                self._misplaced(directory, set())
                return
            # The watch comes first: a later change is hinted, an earlier one is listed.
            self._source.watch(directory.inode, fd)
            listing = Listing(directory, directory.content)
            try:
                yield from self._names_of(listing, fd)
            except OSError as error:
                if directory.parent is None or not of_the_disk(error):
                    raise
                yield self._stale(directory.parent, directory.name, reason(error))
                return
            if not directory.listed:
                directory.listed = True
                self._listed.append(directory)
            if listing.recorded == EMPTY:
                # No name was skipped because of its signature.
                self._whole.add(directory.inode)
                self._seen.pop(directory.inode, None)
            if directory.parent is not None:
                self._held.record((directory.parent.inode, directory.name), None)

    def _names_of(self, listing: Listing, fd: int) -> Iterator[Observation]:
        """Scan the names that are in the directory, then those that are gone from it."""
        directory = listing.directory
        before = None if directory.listed else self._watch_new
        if self._sums is not None:
            self._sums.begin(directory.inode, os.fstat(fd))
        for name, status in inode.statuses(fd, before, self._skipped(directory)):
            if self._sums is not None:
                self._sums.add(directory.inode, name, status)
            listing.on_disk.add(name)
            listing.window.append((name, status))
            if len(listing.window) >= limits.OBSERVE_NAMES_MAX:
                yield from self._compare(listing, fd)
        yield from self._compare(listing, fd)
        if listing.found < self._tree.count(listing.recorded):
            for name in self._tree.names(listing.recorded):
                if name not in listing.on_disk:
                    yield from self._scan_name(directory, fd, name)
        # A directory found earlier in this capture is in no recorded tree yet.
        for name in directory.children.keys() - listing.on_disk:
            yield from self._scan_name(directory, fd, name)

    def _skipped(self, directory: Directory) -> Callable[[bytes], bool] | None:
        """A predicate for names in it that are left out; None where none is."""
        excluded = self._tree.excluded
        return partial(excluded.match, directory) if excluded else None

    def _compare(self, listing: Listing, fd: int) -> Iterator[Observation]:
        self._check()
        window, listing.window = listing.window, []
        known = listing.recorded != EMPTY
        records = self._index.get_many([s.st_ino for _, s in window if s is not None])
        same: list[int] = []
        excluding = bool(self._tree.excluded)
        for name, status in window:
            record = records.get(status.st_ino) if known and status is not None else None
            if (
                status is not None
                and record is not None
                and status.st_ino not in self._files.changed
                and status.st_ino not in self._sought
                and listing.unchanged(self._tree, self._files.trust, name, status, record)
                # A signature from before a name was left out, and is not any more, proves nothing.
                and (not excluding or self._tree.lookup_in(listing.recorded, name) is not None)
            ):
                listing.found += 1
                same.append(status.st_ino)
                self._nameless.pop(status.st_ino, None)
                continue
            if known and self._tree.lookup_in(listing.recorded, name) is not None:
                listing.found += 1
            yield from self._scan_name(listing.directory, fd, name, why=Why.LISTING)
        if not listing.directory.listed:
            self._source.mark_read(same)


def _status(directory: int, name: bytes) -> os.stat_result | None:
    """lstat of a name; also None where that fails, which the scan of the name then reports."""
    try:
        return inode.status(directory, name)
    except OSError:
        return None


def _grouped(pairs: list[tuple[int, bytes]]) -> dict[int, set[bytes]]:
    grouped: dict[int, set[bytes]] = {}
    for number, name in pairs:
        grouped.setdefault(number, set()).add(name)
    return grouped
