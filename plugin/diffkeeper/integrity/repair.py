"""Puts recorded bytes back into damaged files of a live directory that is not mounted.

1. What is on disk becomes a snapshot, and the state to be put back another one above it, in one
   transaction: nothing is lost, and the newest snapshot is the intended state.
2. A journal names the files. From here on their timestamps move, so that their signatures would
   indicate a write.
3. The chunks that differ are written at their places, synced, and read again from disk.
4. Modification time, mode and extended attributes are put back, and the signatures that the files
   have now are stored with the recorded content.
5. The journal is removed.

A kill after 2 leaves a journal. Whoever opens the volume next does only 4 and 5: a file that was
not finished is recorded as it should be, so that it still does not verify, and another repair
continues. Nothing is written into files except by command.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from msgspec import structs

from diffkeeper import clock, failpoint, limits
from diffkeeper.errors import ConflictError, CorruptionError, DiffKeeperError, NotFoundError
from diffkeeper.format import dirtree, filetree, root, xattrs
from diffkeeper.format.chunk import HOLE, is_zero
from diffkeeper.format.entry import chunk_count, link_key
from diffkeeper.format.ids import Root
from diffkeeper.fsio import durable, inode, linux, tree
from diffkeeper.hashing import chunk_digest
from diffkeeper.integrity.bit_rot import UnusedDirectory, differences
from diffkeeper.limits import MIB
from diffkeeper.snapshot import attributes
from diffkeeper.snapshot.staging import Staging
from diffkeeper.store.store import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from diffkeeper.format.entry import Entry
    from diffkeeper.format.records import SnapshotRecord
    from diffkeeper.integrity.bit_rot import Damage, Difference
    from diffkeeper.snapshot.volume_state import VolumeState
    from diffkeeper.store.store import Store

REPAIR_JOURNAL_BYTES_MAX = 4 * MIB

KEPT = "damaged"  # reason of the snapshot of what was on disk
REPAIR = "repair"  # reason of the snapshot that is put back
CAUSE = "what a repair found on disk in damaged files: no state that a program left"


@dataclass(frozen=True, slots=True)
class RepairJournal:
    """What is being repaired: root of the state that is put back, path and inode of each file."""

    root: Root
    files: tuple[tuple[bytes, int], ...]

    def encode(self) -> bytes:
        """As JSON; paths in hexadecimal digits, since they are no text."""
        files = [[path.hex(), number] for path, number in self.files]
        return json.dumps({"root": self.root.hex(), "files": files}).encode()

    @classmethod
    def decode(cls, encoded: bytes) -> RepairJournal:
        """The journal, or CorruptionError."""
        try:
            message = json.loads(encoded)
            files = tuple((bytes.fromhex(path), int(number)) for path, number in message["files"])
            return cls(Root.fromhex(message["root"]), files)
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptionError(f"the journal of a repair cannot be read: {error}") from error


def pending(path: str) -> RepairJournal | None:
    """The journal that a killed repair left at `path`, if any; CorruptionError."""
    try:
        with open(path, "rb") as file:
            return RepairJournal.decode(file.read(REPAIR_JOURNAL_BYTES_MAX))
    except FileNotFoundError:
        return None


class Repair:
    """One repair of files that `UnusedDirectory.examine` found damaged, with a journal at
    `journal`.

    The caller makes sure that nothing has the volume mounted and nothing captures it.
    """

    def __init__(
        self, store: Store, state: VolumeState, live: UnusedDirectory, journal: str
    ) -> None:
        self._store = store
        self._state = state
        self._live = live
        self._journal = journal

    def keep_found_state(
        self,
        head: SnapshotRecord,
        damages: Sequence[Damage],
        level: int | None,
        tagging: Callable[[], AbstractContextManager[None]],
    ) -> SnapshotRecord:
        """Store what is on disk as a tagged snapshot, and `head`, the newest one, again above it.

        `tagging`: context in which a tag may be committed. Raises NoSpaceError, and ConflictError
        if the tag is in use or there are too many: nothing was changed then.
        """
        with self._store.holding():
            stage = Staging(self._store, level)
            top = self._as_found(head.root, damages, stage)
            with tagging():
                kept, after = self._records(head, top, stage)
                batch = stage.batch([top])
                batch.snapshots.append(kept)
                batch.tags_put[kept.volume_id, self._free_tag(kept)] = kept.seq
                failpoint.hit("repair.before_commit")
                self._state.commit(batch, after)
                failpoint.hit("repair.after_commit")
        return kept

    def _records(
        self, head: SnapshotRecord, top: Root, stage: Staging
    ) -> tuple[SnapshotRecord, SnapshotRecord]:
        record = self._state.record
        # Times ascend, as for all snapshots after a clock that stepped back.
        base = replace(
            head, time_ns=max(clock.now_ns(), head.time_ns), group={}, freeze_ms=0.0, capture_ms=0.0
        )
        kept = replace(
            base, seq=record.next_seq, parent=head.seq, root=top, reason=KEPT,
            consistency="fuzzy", cause=CAUSE,
            new_bytes=stage.new_bytes, stored_bytes=stage.stored_bytes,
        )  # fmt: skip
        after = replace(
            base, seq=kept.seq + 1, parent=kept.seq, reason=REPAIR, new_bytes=0, stored_bytes=0
        )
        return kept, after

    def _free_tag(self, kept: SnapshotRecord) -> str:
        tag, tags = tag_of(kept), self._store.tags(kept.volume_id)
        if tag in tags or len(tags) >= limits.TAGS_MAX:
            why = "is in use" if tag in tags else f"would be one too many of {limits.TAGS_MAX}"
            raise ConflictError(f"the tag {tag} for what is on disk {why}; nothing was repaired")
        return tag

    def _as_found(self, before: Root, damages: Sequence[Damage], stage: Staging) -> Root:
        """Root of a snapshot with the damaged files as they are on disk; all staged.

        What the disk does not return is recorded as a hole.
        """
        top, links_root = root.decode_root(self._store.node(before))
        for damage in damages:
            entry = structs.replace(damage.entry, content=self._content(damage, stage))
            if damage.link_id:
                changes = {link_key(damage.link_id): entry}
                links_root = dirtree.apply(links_root, changes, stage.get, stage.put)
            else:
                top = _replaced(top, damage.names[0].split(b"/"), entry, stage)
        return Root(stage.put(root.encode_root(top, links_root)))

    def _content(self, damage: Damage, stage: Staging) -> bytes:
        """Root of the file's content as it is on disk."""
        entry, content = damage.entry, damage.entry.content
        count = chunk_count(entry.size, entry.chunk_bits)
        changes: dict[int, bytes] = {}
        with self._live.located(damage.names[0]) as (pin, _), inode.reading(pin) as fd:
            for each in differences(fd, entry, self._store.node):
                changes[each.number] = HOLE
                if each.found is not None and not is_zero(each.found):
                    changes[each.number] = chunk_digest(each.found)
                    stage.add_chunks({changes[each.number]: each.found})
                    stage.relieve()
                if len(changes) >= limits.CONTENT_CHANGES_MAX:
                    content = filetree.update(content, count, count, changes, stage.get, stage.put)
                    changes.clear()
        return filetree.update(content, count, count, changes, stage.get, stage.put)

    def write(self, damages: Sequence[Damage]) -> dict[bytes, str]:
        """Put the recorded bytes back, durably; errors by the first name of the file.

        An error of one file does not stop the others. Raises OSError and CorruptionError where the
        signatures could not be stored: whoever opens the volume next does that.
        """
        files = tuple((damage.names[0], damage.inode) for damage in damages)
        journal = RepairJournal(self._live.root, files)
        durable.write_file(self._journal, journal.encode())
        failpoint.hit("repair.journaled")
        failed: dict[bytes, str] = {}
        for damage in damages:
            try:
                self._write(damage)
            except (DiffKeeperError, OSError) as error:
                failed[damage.names[0]] = str(error)
        _, unfinished = self.finish(journal)
        return {**unfinished, **failed}

    def _write(self, damage: Damage) -> None:
        path, entry = damage.names[0], damage.entry
        with self._live.located(path) as (pin, status):
            self._live.signed(path, entry, status)
            with inode.writing(pin) as fd:
                for each in differences(fd, entry, self._store.node):
                    failpoint.hit("repair.writing")
                    _put_back(fd, each, self._live.content(path, each), entry.chunk_bits)
                durable.sync_open_file(fd)
                failpoint.hit("repair.written")
                inode.evict(fd)
                left = next(differences(fd, entry, self._store.node), None)
        if left is not None:
            start = left.number << entry.chunk_bits
            raise CorruptionError(f"the disk gives other bytes than were written, from {start}")

    def finish(self, journal: RepairJournal) -> tuple[list[bytes], dict[bytes, str]]:
        """Give the files their recorded metadata and signatures, and remove the journal.

        Returns the paths of files that are still there, and errors by path: one does not stop the
        others. Changes no content.
        """
        head = self._state.head
        batch = Batch()
        done: list[bytes] = []
        failed: dict[bytes, str] = {}
        if head is not None and head.root == journal.root:
            for path, number in journal.files:
                try:
                    if self._restored(path, number, batch):
                        done.append(path)
                except OSError as error:
                    failed[path] = error.strerror or str(error)
        failpoint.hit("repair.before_settle")
        if batch.index_put:
            # A write from now on gets another timestamp.
            clock.sleep(limits.TIMESTAMP_GRANULE_NS / 1e9)
            self._store.commit(batch)
        failpoint.hit("repair.after_settle")
        durable.remove_file(self._journal)
        return done, failed

    def _restored(self, path: bytes, number: int, batch: Batch) -> bool:
        """Restore metadata if this is still the file, and was written since; whether it was."""
        record = self._store.index(self._state.record.id, number)
        try:
            entry, _ = self._live.entry(path)
            with self._live.located(path) as (pin, status):
                same = status.st_ino == number and inode.is_regular(status)
                if not same or record is None or status.st_size != entry.size:
                    return False
                if record.ctime_ns == status.st_ctime_ns or record.content != entry.content:
                    return False
                with inode.writing(pin) as fd:
                    self._restore_metadata(fd, entry)
                    durable.sync_open_file(fd)
                    status = os.fstat(fd)
        except (ConflictError, NotFoundError):
            return False  # something else is there now: not the file under repair
        # It is synced and nobody has it mapped: as after a replay, each change moves a timestamp.
        signature = structs.replace(
            record, mtime_ns=status.st_mtime_ns, ctime_ns=status.st_ctime_ns,
            seen_ns=status.st_ctime_ns + inode.proven_ns(),
        )  # fmt: skip
        batch.index_put[self._state.record.id, number] = signature.encode()
        return True

    def _restore_metadata(self, fd: int, entry: Entry) -> None:
        """Restore what a write takes away: set-id bits, capabilities, the modification time."""
        status = os.fstat(fd)
        if status.st_mode & 0o7777 != entry.mode:
            os.fchmod(fd, entry.mode)
        wanted = xattrs.decode(self._store.node(entry.xattrs)) if entry.xattrs else {}
        found = attributes.recordable(fd).kept
        for name, value in wanted.items():
            if found.get(name) != value:
                os.setxattr(fd, name, value)
        # The change time has to move last.
        os.utime(fd, ns=(status.st_atime_ns, entry.mtime_ns))


def tag_of(kept: SnapshotRecord) -> str:
    """The tag of the snapshot of what was on disk."""
    return f"before-repair-{kept.seq}"


def _put_back(fd: int, each: Difference, content: bytes, chunk_bits: int) -> None:
    start = each.number << chunk_bits
    if each.wanted == HOLE:
        try:
            linux.punch_hole(fd, start, each.length)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise
    tree.write(fd, content, start, sparse=False)


def _replaced(top: Entry, names: list[bytes], new: Entry, stage: Staging) -> Entry:
    """The directory with another entry at the path below it; directories above are updated."""
    above = [top]
    for name in names[:-1]:
        below = dirtree.lookup(above[-1].content, name, stage.get)
        if below is None:
            raise CorruptionError(f"{name!r} was in the snapshot just now")
        above.append(below)
    for directory, name in zip(reversed(above), reversed(names), strict=True):
        content = dirtree.apply(directory.content, {name: new}, stage.get, stage.put)
        new = structs.replace(directory, content=content)
    return new
