"""A model of volumes beside the real daemon that keeps them, through kills at any point.

Every operation is done on the daemon and on the model; `check` holds one against the other:
- what is in a live directory stays, whatever is killed;
- where the live directory is lost, what comes back is a state that was there at or after the last
  one whose snapshot was acknowledged;
- acknowledged snapshots stay, and counts of mounts are right.
An operation that the daemon did not answer may have happened or not; the model then takes over
whichever of the two the next daemon shows, and accepts no third.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffkeeper.volumes import lifecycle
from diffkeeper.volumes.lifecycle import Event, State
from tests.support.daemon import Daemon
from tests.support.volume_book import Book, Files, after_an_end, leads

if TYPE_CHECKING:
    from collections.abc import Callable

# What a mount does before it binds the live directory.
PREPARED = {State.NEW: (Event.MOUNT,), State.STORED: (Event.MOUNT, Event.REPLAYED)}
OPTIONS = {"interval": "30d", "retention": "all"}


class DaemonDied(Exception):
    """The daemon was killed at its failpoint before it answered."""


class World:
    """One daemon with its volumes and their books."""

    def __init__(self, base: Path | None = None) -> None:
        """`base`: where all of it is; a new directory if None."""
        self.daemon = Daemon(base or Path(tempfile.mkdtemp(prefix="dk-")))
        self.books: dict[str, Book] = {}
        self.trash: dict[str, Book] = {}  # the newest removed volume of each name
        self.kills = 0
        self.armed = False  # a failpoint may kill the daemon
        self.writes = 0
        self.events: set[Event] = set()  # that happened
        self.daemon.start()

    def close(self) -> None:
        """End everything."""
        self.daemon.clean()

    # The table

    def led(self, book: Book, before: State, *events: Event) -> None:
        """These happened, one after the other: the table leads to where the volume is now."""
        assert book.counted in leads(before, events), (book, before, events)
        self.events.update(events)

    def led_or_killed(self, book: Book, before: State, *events: Event) -> None:
        """The daemon was killed before, between or after these: the table leads here all the
        same.
        """
        after = after_an_end(Event.DAEMON_KILLED, before, *events)
        assert book.counted in after, (book, before, events)
        self.events.add(Event.DAEMON_KILLED)
        if book.counted in leads(before, events):
            self.events.update(events)

    # The daemon

    def kill(self) -> None:
        """kill -9, and a new daemon."""
        self.daemon.stop(signal.SIGKILL)
        self.start()

    def arm(self, failpoint: str) -> None:
        """kill -9, and a new daemon that kills itself at a failpoint, perhaps while it starts."""
        self.daemon.stop(signal.SIGKILL)
        self.armed = True
        try:
            self.daemon.start("--failpoints", failpoint)
        except AssertionError:
            self.revive()
        else:
            self._forget_containers()

    def start(self) -> None:
        """A new daemon; what it shows is what it should be."""
        before = [(book, book.counted) for book in self.books.values()]
        self.started(Event.DAEMON_KILLED, before)

    def started(self, end: Event, before: list[tuple[Book, State]]) -> None:
        """A new daemon after this end: the table leads from where a volume was to where it is."""
        self.armed = False
        self.daemon.start()
        self._forget_containers()
        self.check()
        for book, state in before:
            assert book.counted in after_an_end(end, state), (book, state)

    def _forget_containers(self) -> None:
        for book in self.books.values():
            book.doubtful = bool(book.mounts)

    def revive(self) -> None:
        """After the daemon died of its failpoint: that, and a new one."""
        assert self.daemon.process is not None
        assert self.daemon.process.wait(30) == -signal.SIGKILL, self.daemon.log
        self.kills += 1
        self.start()

    def died(self) -> bool:
        """Whether the daemon has ended."""
        return self.daemon.process is not None and self.daemon.process.poll() is not None

    def call(self, call: str, **message: object) -> str:
        """The error text of a driver call, empty on success; raises DaemonDied."""
        return str(self.answer(lambda: self.daemon.call(call, **message)).json.get("Err", ""))

    def answer(self, request: Callable[[], Any]) -> Any:
        """The answer of one request; raises DaemonDied."""
        try:
            return request()
        except (OSError, http.client.HTTPException) as error:
            assert self.daemon.process is not None
            code = self.daemon.process.wait(30)
            killed = self.armed and code == -signal.SIGKILL
            assert killed, f"{error!r}, {code}: {self.daemon.log}"
            raise DaemonDied from error

    def view(self, name: str) -> dict[str, Any]:
        """A volume as the admin API shows it."""
        answer = self.answer(lambda: self.daemon.request("GET", f"/v1/volumes/{name}"))
        assert answer.status == 200, answer.body
        return dict(answer.json)

    def history(self, name: str) -> list[dict[str, Any]]:
        """All snapshots of a volume, oldest first."""
        path = f"/v1/volumes/{name}/snapshots"
        return list(self.answer(lambda: self.daemon.request("GET", path)).json)

    def names(self) -> set[str]:
        """The volumes that there are."""
        answer = self.answer(lambda: self.daemon.call("List"))
        return {volume["Name"] for volume in answer.json["Volumes"]}

    # Operations: each may raise DaemonDied once the model allows for both outcomes

    def create(self, name: str) -> None:
        """Create a volume that takes its snapshots on request."""
        try:
            error = self.call("Create", Name=name, Opts=OPTIONS)
        except DaemonDied:
            self.revive_with(lambda: self._created(name))
            raise
        assert error == ""
        try:
            self._created(name)
        except DaemonDied:  # after its answer, of what it does at its own time
            self.revive_with(lambda: self._created(name))
            assert name in self.books
            raise

    def _created(self, name: str) -> None:
        if name in self.books or name not in self.names():
            return
        live = Path(self.view(name)["status"]["live"])
        book = self.books[name] = Book(name, live, present=live.is_dir())
        self.led(book, State.ABSENT, Event.CREATE)

    def mount(self, name: str, mount_id: str) -> None:
        """Mount; a live directory that was lost comes back."""
        book = self.books[name]
        before = book.counted
        events = (*PREPARED.get(before, ()), Event.MOUNT)
        try:
            answer = self.answer(lambda: self.daemon.call("Mount", Name=name, ID=mount_id))
        except DaemonDied:
            # The next daemon takes over what it finds counted.
            self.revive_with(lambda: self._settle_mount(book, mount_id))
            self.led_or_killed(book, before, *events)
            raise
        assert answer.json["Err"] == "", answer.body
        self._mounted(book, mount_id)
        self.led(book, before, *events)
        self.seen(book)
        mountpoint = answer.json["Mountpoint"]
        assert self.daemon.mounted(mountpoint)
        assert read(Path(mountpoint)) == book.states[-1]

    def _mounted(self, book: Book, mount_id: str) -> None:
        if book.forgets_mounts():
            book.mounts.clear()
        book.doubtful = False
        book.mounts[mount_id] = book.mounts.get(mount_id, 0) + 1

    def _settle_mount(self, book: Book, mount_id: str) -> None:
        counted = self.view(book.name)["mounts"]
        if counted == sum(book.mounts.values()):
            return
        if counted == 0:
            book.mounts.clear()
        else:
            self._mounted(book, mount_id)
            book.doubtful = True
        assert counted == sum(book.mounts.values())

    def unmount(self, name: str, mount_id: str) -> None:
        """Unmount; the last one takes a snapshot of what is there."""
        book = self.books[name]
        after = dict(book.mounts)
        if mount_id in after:
            after[mount_id] -= 1
            after = {i: count for i, count in after.items() if count}
        if book.forgets_mounts():  # whatever the id
            after.clear()
        before, last = book.counted, bool(book.mounts) and not after
        events = (Event.LAST_UNMOUNT,) if last else ()
        try:
            error = self.call("Unmount", Name=name, ID=mount_id)
        except DaemonDied:
            self.revive_with(lambda: self._settle_unmount(book, after))
            self.led_or_killed(book, before, *events)
            raise
        assert error == ""
        book.mounts = after
        self.led(book, before, *events)
        if last and book.present:
            trouble = self.view(name)["status"]["trouble"]
            assert trouble == [], trouble
            self.acknowledge(book)

    def _settle_unmount(self, book: Book, after: dict[str, int]) -> None:
        counted = self.view(book.name)["mounts"]
        assert counted in (sum(book.mounts.values()), sum(after.values()))
        if counted == sum(after.values()):
            book.mounts = after

    def snapshot(self, name: str) -> None:
        """Take a snapshot now."""
        book = self.books[name]
        path = f"/v1/volumes/{name}/snapshots"
        try:
            answer = self.answer(lambda: self.daemon.request("POST", path, b"{}"))
        except DaemonDied:
            self.revive_with(lambda: None)
            raise
        if not book.present and not book.snapshots and answer.status in (404, 500):
            return
        if answer.status == 201:
            self.acknowledge(book)
            book.snapshots[answer.json["seq"]] = answer.json["root"]
        else:
            assert not book.present, answer.body

    def remove(self, name: str) -> None:
        """Remove, which is refused while it is mounted."""
        book = self.books[name]
        refused = not lifecycle.lists(book.stage, Event.REMOVE)
        before = book.counted
        # What is forgotten first are the mounts.
        forgets = (Event.LAST_UNMOUNT,) if book.forgets_mounts() else ()
        events = (*forgets, Event.REMOVE) if not refused else ()
        try:
            error = self.call("Remove", Name=name)
        except DaemonDied:
            self.revive_with(lambda: self._settle_remove(book))
            self.led_or_killed(book, before, *events)
            raise
        if refused:
            assert "in use" in error
        else:
            assert error == ""
            self._removed(book)
            assert name not in self.names()
        self.led(book, before, *events)

    def _settle_remove(self, book: Book) -> None:
        if book.name not in self.names():
            self._removed(book)
            return
        counted = self.view(book.name)["mounts"]
        assert counted in (0, sum(book.mounts.values()))
        if counted == 0:
            book.mounts.clear()

    def _removed(self, book: Book) -> None:
        """Its last state is in the store, or still where it was."""
        self.acknowledge(book)
        book.present = False
        book.mounts.clear()
        book.removed = True
        self.trash[book.name] = self.books.pop(book.name)
        listed = self.answer(lambda: self.daemon.request("GET", "/v1/trash")).json
        number = int(book.live.parent.name)
        (book.kept,) = [found["live"] for found in listed if found["id"] == number]

    def undelete(self, name: str) -> None:
        """Bring the newest removed volume of the name back."""
        book = self.trash[name]
        before = book.counted
        path = f"/v1/trash/{book.live.parent.name}/undelete"
        try:
            answer = self.answer(lambda: self.daemon.request("POST", path, b"{}"))
        except DaemonDied:
            self.revive_with(lambda: self._settle_undelete(book))
            self.led_or_killed(book, before, Event.UNDELETE)
            raise
        assert answer.status == 200, answer.body
        self._settle_undelete(book)
        assert name in self.books
        self.led(book, before, Event.UNDELETE)

    def _settle_undelete(self, book: Book) -> None:
        if book.name in self.names():
            self.books[book.name] = self.trash.pop(book.name)
            book.removed = False
            book.stored = bool(self.history(book.name))

    def rename(self, name: str, target: str) -> None:
        """Give it another name, which is refused while it is mounted, or if a volume has it."""
        book = self.books[name]
        before = book.counted
        refused = target in self.books or not lifecycle.lists(before, Event.RENAME)
        events = (Event.RENAME,) if not refused else ()
        path, body = f"/v1/volumes/{name}/rename", json.dumps({"as": target}).encode()
        try:
            answer = self.answer(lambda: self.daemon.request("POST", path, body))
        except DaemonDied:
            self.revive_with(lambda: self._settle_rename(book, target))
            self.led_or_killed(book, before, *events)
            raise
        if answer.status == 503:  # it is being replayed
            return
        assert answer.status == (409 if refused else 200), answer.body
        if not refused:
            self._settle_rename(book, target)
            assert book.name == target
            self.led(book, before, *events)

    def _settle_rename(self, book: Book, target: str) -> None:
        if book.name not in self.names():
            self.books[target] = self.books.pop(book.name)
            book.name = target

    def empty_trash(self) -> None:
        """Delete all removed volumes for good."""
        try:
            answer = self.answer(lambda: self.daemon.request("DELETE", "/v1/trash"))
        except DaemonDied:
            self.revive_with(lambda: None)
            raise
        assert answer.status == 200, answer.body
        assert self.daemon.admin("GET", "/v1/trash") == []
        for book in self.trash.values():
            assert leads(book.counted, [Event.PURGE]) == {State.PURGED}
            self.events.add(Event.PURGE)
        self.trash.clear()

    def write(self, name: str, file: str, size: int) -> None:
        """One new state, at one instant: a file is renamed into the live directory."""
        book = self.books[name]
        if not book.present:
            return
        self.writes += 1
        content = b"%d %s\n" % (self.writes, file.encode()) * (size // 10 + 1)
        made = self.daemon.base / "made"
        made.write_bytes(content)
        os.rename(made, book.live / file)
        book.states.append({**book.states[-1], file: content})

    def wipe(self, name: str) -> None:
        """The live directory of a volume that nobody has mounted is lost."""
        book = self.books[name]
        if not book.mounts and book.present:
            book.stored = bool(self.history(name))
            before = book.counted
            shutil.rmtree(book.live)
            book.present = False
            self.led(book, before, Event.LOST)

    # Model and reality

    def acknowledge(self, book: Book) -> None:
        """A snapshot of the present state is durable now."""
        if book.present:
            book.durable = len(book.states) - 1

    def revive_with(self, settle: Callable[[], None]) -> None:
        """After a death: a new daemon, and whichever outcome it shows; then everything holds."""
        assert self.daemon.process is not None
        assert self.daemon.process.wait(30) == -signal.SIGKILL, self.daemon.log
        self.kills += 1
        self.armed = False
        self.daemon.start()
        settle()
        self._forget_containers()
        self.check()

    def seen(self, book: Book) -> None:
        """The live directory holds what it held, or where it was lost a state that may be back."""
        if book.live.is_dir():
            found = read(book.live)
            if not book.present:
                assert found in book.states[book.durable :], "an acknowledged snapshot was lost"
                book.states, book.durable, book.present = [found], 0, True
            assert found == book.states[-1], "live content was changed"
        else:
            assert not book.present, "a live directory was lost"

    def check(self) -> None:
        """Everything that was promised holds."""
        assert self.names() == set(self.books)
        for name, book in self.books.items():
            view = self.view(name)
            assert view["mounts"] == sum(book.mounts.values())
            assert bool(view["mountpoint"]) == bool(book.mounts)
            self.seen(book)
            listed = self.history(name)
            book.stored = bool(listed)
            roots = {found["seq"]: found["root"] for found in listed}
            assert list(roots) == list(range(1, len(roots) + 1)), "the history has a gap"
            assert book.snapshots.items() <= roots.items(), "an acknowledged snapshot is gone"
            for found, before in zip(listed[1:], listed[:-1], strict=True):
                assert found["parent"] == before["seq"]

    def verify(self) -> None:
        """Every acknowledged snapshot can be read whole from the store."""
        for name, book in self.books.items():
            for seq in book.snapshots:
                message = {"snapshot": str(seq)}
                report = self.daemon.admin("POST", f"/v1/volumes/{name}/verify", message)
                assert (report["ok"], report["complete"]) == (True, True), report

    def remove_all(self) -> None:
        """Nothing keeps a volume for ever: unmount what is mounted, and remove."""
        for name in list(self.books):
            for mount_id, count in list(self.books[name].mounts.items()):
                for _ in range(count):
                    self.unmount(name, mount_id)
            self.remove(name)
        assert self.names() == set()


def read(directory: Path) -> Files:
    """Names and contents."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}
