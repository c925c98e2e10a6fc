"""eBPF: shows which parts of which file changed; names come from inotify, without its writes.

Files are watched by inode number before they are read. What the marks cannot show is covered as
with inotify: anything before a file is watched by reading it whole, and marks that had no room by
the comparison of the whole volume, under a new number for which no file is watched yet.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from diffkeeper import clock, counters, limits
from diffkeeper.errors import UnsupportedError
from diffkeeper.sources.base import Changed, Dirty
from diffkeeper.sources.ebpf.marks import Moving, Waiting
from diffkeeper.sources.inotify import InotifySource

if TYPE_CHECKING:
    from collections.abc import Iterable

    from diffkeeper.sources.ebpf.heartbeat import Heartbeat
    from diffkeeper.sources.ebpf.marks import ChangeMarks
    from diffkeeper.sources.ebpf.program import Program


class EbpfSource:
    """One volume on `device` (as in st_dev), with chunks of 1 << chunk_bits bytes."""

    name = "ebpf"
    hinting = by_range = True

    def __init__(
        self,
        program: Program,
        device: int,
        chunk_bits: int,
        heart: Heartbeat | None = None,
        directory: str = "",
    ) -> None:
        """`heart`: proves that writes are seen, with a file below `directory`."""
        self._program = program
        self._heart, self._directory = heart, directory
        self.window_bits = program.window_bits
        self.sees_mappings = program.faults
        self._device = device
        self._chunk_bits = chunk_bits
        self._names = InotifySource(writes=False)
        self._number = 0
        self._given_back: dict[int, Changed] = {}
        self._started, self._under_way, self._moving = Waiting(), Waiting(), Moving()
        self._frozen = False  # whether the last drain was in a freeze
        # watched, and read or compared since, with no hint meanwhile that invalidates that
        self._proven: set[int] = set()
        self._some_read = False

    @property
    def complete(self) -> bool:
        """Whether names are watched in all directories."""
        return self._names.complete

    @property
    def unwatched(self) -> int:
        """Number of directories whose names are not watched."""
        return self._names.unwatched

    @property
    def why_unwatched(self) -> str:
        """Why these are not watched."""
        return self._names.why_unwatched

    def start(self) -> None:
        """Begin to collect hints; raises UnsupportedError naming the limit that is reached."""
        if self._heart is not None:
            self._heart.join(self._device, self._directory)
        try:
            self._names.start()
            self._number = self._program.open_volume(self._device)
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        heart, self._heart = self._heart, None
        if heart is not None:
            heart.leave(self._device)

    def broken(self) -> str:
        """Why hints may be missing, or ""; asks the kernel."""
        return self._silent() or self._program.check()

    def missed(self) -> bool:
        """Whether marks were lost since the last drain."""
        return self._program.missed(self._number)

    def _silent(self) -> str:
        return self._heart.silent(self._device) if self._heart is not None else ""

    def stop(self) -> None:
        """Release every kernel resource."""
        self._leave()
        number, self._number = self._number, 0
        if number:
            # The maps of lost programs may be gone, and are of no use.
            self._program.close_volume(number, forget=not self._program.lost)
        self._names.stop()

    def watch(self, inode: int, descriptor: int) -> bool:
        """Watch the names of a directory, unless a limit is reached."""
        return self._names.watch(inode, descriptor)

    def unwatch(self, inode: int) -> None:
        """Stop watching the names of a directory."""
        self._names.unwatch(inode)

    def pending(self) -> bool:
        """Whether a drain would return anything; cheap."""
        return bool(
            self._program.lost
            or self._silent()
            or self._given_back
            or self._marked()
            or self._names.pending()
            or self._due(clock.monotonic())
        )

    def _marked(self) -> bool:
        try:
            return self._program.pending(self._number)
        except OSError:
            # A capture finds out whether the programs are lost.
            return True

    def drain(self, *, frozen: bool = False) -> Dirty:
        """Take names first: if an inode was freed since, its mark is there by then.

        Raises UnsupportedError when the volume was evicted from the map of watched files.
        """
        dirty = self._names.drain(frozen=frozen)
        marks = self._program.drain(self._number)
        if refused := self._program.refused(self._number):
            raise UnsupportedError(refused)
        if marks.lost:
            counters.add("ebpf_lost_total", 1)
            self._renew()
            dirty.files.clear()
            dirty.unwatched = True
            dirty.escalate("the kernel had no room for a mark, or left one out")
            return dirty
        dirty.files, self._given_back = self._given_back, {}
        for inode, changed in marks.done.items():
            dirty.files.setdefault(inode, Changed()).merge(changed)
        if not self.sees_mappings:
            for inode, changed in marks.started.items():
                # Timestamps move without a write when a mapped page becomes writable.
                changed.mapped = changed.mapped or inode not in marks.done
        self._merge_started(marks, dirty, frozen=frozen)
        for inode in marks.reused:
            dirty.files.setdefault(inode, Changed()).whole = True
            if self._program.watched_as(self._number, inode) is not None:
                self._watch([inode], held=False)
            self._proven.discard(inode)
        return dirty

    def _merge_started(self, marks: ChangeMarks, dirty: Dirty, *, frozen: bool) -> None:
        """Hint operations that are only seen to start, now and again when they have ended.

        They have ended in a freeze, or after a certain time. That is enough for a change of size,
        which is marked again when it has happened. It is not for content that is moved, whose
        process need not be frozen: see `Moving`.

        Direct I/O whose end is not reported may continue in a freeze, and its writers may know that
        it has ended before: so each freeze reads it, until it has certainly ended.
        """
        now = clock.monotonic()
        moved = {inode: each for inode, each in marks.started.items() if each.whole or each.chunks}
        surely = now - limits.STARTED_SECONDS
        since = 0.0 if frozen and not self._frozen else now
        self._frozen = frozen
        self._started.add(now, {n: c for n, c in marks.started.items() if n not in moved})
        self._moving.add(now, moved)
        self._under_way.add(now, marks.under_way)
        for inode, changed in (
            *self._started.drained_between(now, now if frozen else surely),
            *self._under_way.drained_between(since, surely),
            *self._moving.to_read(now, frozen=frozen),
        ):
            dirty.files.setdefault(inode, Changed()).merge(changed)

    def _due(self, now: float) -> bool:
        surely = now - limits.STARTED_SECONDS
        due = self._started.due(surely) or self._under_way.due(surely)
        return due or self._moving.due(now)

    def under_way(self) -> bool:
        """Whether direct I/O is still writing to a watched file, maybe of a frozen process."""
        return self._program.direct_under_way(self._number)

    def give_back(self, inode: int, names: set[bytes]) -> None:
        """Have the next drain return these names of a directory again."""
        self._names.give_back(inode, names)

    def give_back_file(self, inode: int, changed: Changed) -> None:
        """Have the next drain return this hint about a file again."""
        self._given_back.setdefault(inode, Changed()).merge(changed)

    def escalate(self, cause: str) -> None:
        """Have the next drain return the whole volume; no file counts as watched any more."""
        self._renew()
        self._names.escalate(cause)

    def _renew(self) -> None:
        """Use a new number: files that are watched under the old one do not count."""
        ended, self._number = self._number, self._program.open_volume(self._device)
        self._program.close_volume(ended, forget=False)
        self._given_back.clear()
        self._started.clear()
        self._under_way.clear()
        self._moving.clear()
        self._proven.clear()
        self._some_read = False

    def watch_new(self, inodes: Iterable[int]) -> bool:
        """Watch these files from now on. Raises UnsupportedError without room."""
        new = [
            inode
            for inode in inodes
            if inode not in self._proven and self._watched_as(inode) is None
        ]
        if new:
            self._watch(new, held=False)
            self._proven.update(new)
        return bool(new)

    def _watch(self, inodes: Iterable[int], *, held: bool) -> None:
        try:
            self._program.watch(self._number, self._chunk_bits, inodes, held=held)
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise UnsupportedError("no memory for files to watch with eBPF") from error
            raise

    def all_seen(self, inode: int) -> bool:
        """Whether all changes were seen since the file was last read; otherwise it is watched
        now.
        """
        if inode in self._proven:
            return False
        held = self._watched_as(inode)
        if held is None:
            self._watch([inode], held=False)
        if not held:
            self._proven.add(inode)
        return bool(held)

    def _watched_as(self, inode: int) -> bool | None:
        """See `Program.watched_as`: a system call, and none before the first file was read."""
        return self._program.watched_as(self._number, inode) if self._some_read else None

    def mark_read(self, inodes: Iterable[int]) -> None:
        """The recorded content of these files is theirs, except for what is marked since.

        Not for files that are not watched any more, or under another number, since they were read:
        changes meanwhile were not marked.
        """
        proven = self._proven.intersection(inodes)
        self._some_read = self._some_read or bool(proven)
        if not self._program.refused(self._number):
            self._watch(proven, held=True)
        self._proven -= proven

    def release(self, inodes: Iterable[int]) -> None:
        """Stop watching these files."""
        inodes = list(inodes)
        self._program.unwatch(self._number, inodes)
        self._proven.difference_update(inodes)
