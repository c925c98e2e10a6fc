"""The model of volumes on a disk of its own: bits rot, files are repaired, the power is cut."""

from __future__ import annotations

import contextlib
import signal
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from diffkeeper.store.store import Batch, Store
from diffkeeper.volumes.lifecycle import Event
from tests.support import bitrot, disks
from tests.support.daemon import unmount_below
from tests.support.volume_world import DaemonDied, World, read

if TYPE_CHECKING:
    from diffkeeper.volumes.lifecycle import State
    from tests.support.volume_book import Book


class RottingWorld(World):
    """A `World` whose daemon has an ext4 of its own for everything."""

    def __init__(self) -> None:
        self._ends = contextlib.ExitStack()
        base = self._ends.enter_context(tempfile.TemporaryDirectory(prefix="dk-"))
        super().__init__(self._ends.enter_context(disks.file_system("ext4", Path(base))))

    def close(self) -> None:
        """End everything."""
        for process in self.daemon.spawned:
            process.kill()
            process.wait(60)
        unmount_below(self.daemon.base)
        self._ends.close()

    def reboot(self, *, damaged: bool) -> None:
        """Everything ends, and the kernel has another boot id. damaged: as after a power cut, a
        file of each mounted volume holds something else, and its timestamps do not tell.
        """
        self.daemon.stop(signal.SIGKILL)
        unmount_below(self.daemon.base / "mounts")
        self._change_boot()
        before = [(book, book.counted) for book in self.books.values()]
        for book in self.books.values():
            if damaged and book.mounts and (file := book.rotten_next):
                book.states.append({**book.states[-1], file: self.rot(book, file)})
            book.mounts.clear()
        self.started(Event.REBOOT, before)
        self.events.add(Event.REBOOT)

    def _change_boot(self) -> None:
        """What was recorded is of another boot than the present one."""
        store = Store.open(str(self.daemon.state_dir / "store"))
        try:
            records = [replace(r, boot_id="before") for r in store.volumes() if r.boot_id]
            store.commit(Batch(volumes=records))
        finally:
            store.close()

    def rot(self, book: Book, file: str) -> bytes:
        """The first byte of a file changes on the disk, without a trace; what it holds then."""
        return bitrot.rot(bitrot.image(self.daemon), book.live / file, 0, 1)

    def rot_and_repair(self, name: str, point: str = "", *, mount_first: bool = False) -> None:
        """Rot in a volume that was replayed, so that signatures tell it from a write, and its
        repair, perhaps killed at a failpoint. Then another repair does the rest, with
        `mount_first` after a mount.
        """
        book = self.books[name]
        self.write(name, "rotten", 20_000)
        self.snapshot(name)
        self.wipe(name)
        self.mount(name, "m")
        self.unmount(name, "m")
        if point:
            self.arm(point)
        before, whole = book.counted, book.states[-1]
        book.states.append({**whole, "rotten": self.rot(book, "rotten")})
        try:
            self._repair(name)
        except DaemonDied:
            self.revive_with(lambda: self._settle_repair(book, before, mount_first=mount_first))
            raise
        assert book.states.pop() != whole
        self.acknowledge(book)
        self.led(book, before, Event.REPAIR, Event.SETTLED)

    def _repair(self, name: str) -> None:
        path, body = f"/v1/volumes/{name}/repair", b"{}"
        answer = self.answer(lambda: self.daemon.request("POST", path, body))
        assert answer.status == 200, answer.body
        outcomes = [(each["path"], each["outcome"]) for each in answer.json["files"]]
        assert outcomes == [("rotten", "repaired")], answer.body

    def _settle_repair(self, book: Book, before: State, *, mount_first: bool) -> None:
        """It did its work or not; what it left is no obstacle."""
        self.led_or_killed(book, before, Event.REPAIR, Event.SETTLED)
        if read(book.live) == book.states[-1]:
            if mount_first:
                for call in ("Mount", "Unmount"):
                    assert self.call(call, Name=book.name, ID="m") == ""
                assert read(book.live) == book.states[-1], "a mount has repaired something"
                assert not book.repair_journal.exists()
            self._repair(book.name)
        book.states.pop()
