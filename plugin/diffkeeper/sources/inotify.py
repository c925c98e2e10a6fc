"""inotify(7): shows which name in which directory changed, but not which bytes.

What it cannot see is covered elsewhere: stores through a shared mapping and asynchronous I/O by the
survey of the writers' mappings and descriptors, anything before a watch existed by the comparison
that follows the watch, and a full queue by the comparison of the whole volume.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from diffkeeper import limits
from diffkeeper.errors import UnsupportedError
from diffkeeper.fsio import linux
from diffkeeper.sources.base import Dirty, NamesOnly
from diffkeeper.sources.watches import SHARED

if TYPE_CHECKING:
    from diffkeeper.fsio.inotify import InotifyEvent

WATCHED_DIRECTORIES_MAX = 500_000

_NAMES_MASK = (
    linux.IN_ATTRIB
    | linux.IN_CLOSE_WRITE
    | linux.IN_CREATE
    | linux.IN_DELETE
    | linux.IN_MOVED_FROM
    | linux.IN_MOVED_TO
    | linux.IN_ONLYDIR
)
_MASK = _NAMES_MASK | linux.IN_MODIFY
_GONE = linux.IN_DELETE | linux.IN_MOVED_FROM
_CAME = linux.IN_CREATE | linux.IN_MOVED_TO
_WRITTEN = linux.IN_MODIFY | linux.IN_CLOSE_WRITE


class InotifySource(NamesOnly):
    """A watch for each directory of one volume, in an instance that several volumes may share.

    Directories without a watch are compared at each drain, and get one once it is available.
    """

    name = "inotify"

    def __init__(self, watches_max: int = WATCHED_DIRECTORIES_MAX, *, writes: bool = True) -> None:
        """`writes`: hint each write; without, only the last close after writing."""
        self._watches_max = watches_max
        self._mask = _MASK if writes else _NAMES_MASK
        self._writes = writes
        self._shared = SHARED.least_used()
        self._lock = self._shared.lock
        self._dirty = Dirty()
        # Names that an inode lost: a write hinted under one of them may have gone to that inode,
        # which may have another name.
        self._gone: dict[int, set[bytes]] = {}
        self._inode_of: dict[int, int] = {}
        self._watch_of: dict[int, int] = {}
        self._unwatched: dict[int, None] = {}  # in the order in which they were found
        self._full = False  # since the last drain, so that no other one gets a watch either
        self._allowance = watches_max
        self.asked = False
        self.why_unwatched = ""

    @property
    def complete(self) -> bool:
        """Whether all directories have a watch."""
        return not self._unwatched

    @property
    def unwatched(self) -> int:
        """Number of directories without a watch."""
        return len(self._unwatched)

    @property
    def watch_count(self) -> int:
        """Number of directories with a watch."""
        return len(self._watch_of)

    @property
    def wanted(self) -> int:
        """Number of known directories."""
        return self.watch_count + self.unwatched

    def start(self) -> None:
        """Join an instance; raises UnsupportedError naming the limit that is reached."""
        self._shared.join(self)

    def stop(self) -> None:
        """Leave the instance, which removes all watches."""
        with self._lock:
            watches = list(self._watch_of.values())
        self._shared.leave(self, watches)

    def watch(self, inode: int, descriptor: int) -> bool:
        """Watch a directory, unless a limit is reached."""
        with self._lock:
            if inode in self._watch_of:
                return False
            if not self._full:
                try:
                    self._add(inode, descriptor)
                except UnsupportedError as error:
                    self._full, self.why_unwatched = True, str(error)
                else:
                    return True
            known = inode in self._unwatched
            self._unwatched[inode] = None
            return not known

    def _add(self, inode: int, descriptor: int) -> None:
        if self.watch_count >= self._watches_max:
            raise UnsupportedError(
                f"more than {self._watches_max} directories to watch with inotify"
            )
        if self.watch_count >= self._allowance:
            raise UnsupportedError(self._shared.why_no_more())
        watch = self._shared.add(self, descriptor, self._mask)
        self._watch_of[inode] = watch
        self._inode_of[watch] = inode
        self._unwatched.pop(inode, None)

    def unwatch(self, inode: int) -> None:
        """Remove the watch of a directory, if it has one."""
        with self._lock:
            self._unwatched.pop(inode, None)
            watch = self._watch_of.pop(inode, None)
            self._gone.pop(inode, None)
            if watch is not None:
                self._inode_of.pop(watch, None)
                self._shared.remove(self, watch)

    def pending(self) -> bool:
        """Whether there are hints since the last drain, or directories that give none."""
        with self._lock:
            self._shared.read()
            return bool(self._dirty or self._unwatched or self.asked)

    def drain(self, *, frozen: bool = False) -> Dirty:
        """Read the kernel's queue, and take all collected hints."""
        with self._lock:
            self._shared.read()
            if not frozen:
                self._share()
            taken, self._dirty = self._dirty, Dirty()
            if sum(map(len, self._gone.values())) > limits.DIRTY_NAMES_MAX:
                # Without these names, a write under one of them is not recognised.
                self._gone.clear()
                taken.orphans = True
            if self._unwatched and not taken.everything:
                taken.compare = tuple(self._unwatched)
            # Any file may have been written under a name that came and went unseen.
            taken.orphans = taken.orphans or bool(self._unwatched and self._writes)
            return taken

    def _share(self) -> None:
        """Use watches that became free; give some up if another owner needs them."""
        self._full = False
        if not self._unwatched:
            self.why_unwatched = ""
        if not (self._unwatched or self.asked):
            self._allowance = self._watches_max
            return
        self.asked, self._allowance = False, self._shared.allowance(self)
        surplus = min(self.watch_count - self._allowance, limits.INOTIFY_REMOVED_AT_ONCE)
        for inode in list(islice(reversed(self._watch_of), max(surplus, 0))):
            self.unwatch(inode)
            self._unwatched[inode] = None
            self.why_unwatched = self._shared.why_no_more()

    def give_back(self, inode: int, names: set[bytes]) -> None:
        """Have the next drain return these names of a directory again."""
        with self._lock:
            if not self._dirty.everything:
                self._dirty.names.setdefault(inode, set()).update(names)

    def escalate(self, cause: str) -> None:
        """Have the next drain return the whole volume."""
        with self._lock:
            self._dirty.escalate(cause)

    def overflowed(self) -> None:
        """Events were lost; they may have been this volume's."""
        self._dirty.escalate("the inotify queue overflowed")

    def on_event(self, event: InotifyEvent) -> None:
        """Handle an event of one of the watches."""
        watch, mask, name = event
        if mask & linux.IN_UNMOUNT:
            self._dirty.escalate("the file system was unmounted")
            return
        inode = self._inode_of.get(watch)
        if inode is None:
            return
        if mask & linux.IN_IGNORED:
            self._inode_of.pop(watch, None)
            self._watch_of.pop(inode, None)
            self._gone.pop(inode, None)
            return
        if not name:
            self._dirty.directories.add(inode)
            return
        self._dirty.add_name(inode, name)
        if not self._writes:
            return
        if name.startswith(b"#") and mask & _WRITTEN:
            # Events of an O_TMPFILE descriptor have a name of its own, its inode number, even after
            # it is linked.
            self._dirty.orphans = True
            if mask & linux.IN_CLOSE_WRITE and name[1:].isdigit():
                self._dirty.close(int(name[1:]))
        if mask & (_GONE | _CAME):
            self._dirty.pass_on(inode, name, came=bool(mask & _CAME))
        if mask & _GONE:
            self._gone.setdefault(inode, set()).add(name)
        elif inode in self._gone and name in self._gone[inode]:
            if mask & _CAME:
                self._gone[inode].discard(name)
            elif mask & _WRITTEN:
                self._dirty.orphans = True
                if mask & linux.IN_CLOSE_WRITE:
                    self._dirty.close()
