"""Gives free room of the store's file back to the file system: by a copy, or by holes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper import clock
from diffkeeper.errors import BusyError, NoSpaceError
from diffkeeper.fsio import durable
from diffkeeper.limits import MIB
from diffkeeper.store import tables

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffkeeper.store.environment import Environment
    from diffkeeper.store.writer import Writer

COMPACT_ATTEMPTS_MAX = 8  # of a store that is written to meanwhile
GIVE_BACK_REST_SECONDS = 0.005  # in which who waits for a turn gets it


class Compaction:
    """The ways to do so, beside readers; writers wait for parts of it."""

    def __init__(self, environment: Environment, writer: Writer) -> None:
        self._environment = environment
        self._writer = writer

    def run(self, used_bytes: Callable[[], int]) -> tuple[int, int]:
        """Give free pages back to the file system; (bytes of the file on the disk before, after).

        `used_bytes`: of the pages in use.

        Captures and maintenance wait meanwhile; records, which the engine waits for, are written
        all the same, and make the copy begin again. Long runs of free pages become holes first,
        which needs no space; what is in use is copied together if there is space for that then.
        NoSpaceError if there is not, and no holes were made. BusyError if records were written each
        time.
        """
        with self._writer.copying():
            before = self._environment.held_bytes()
            given = self.give_back()
            # Besides the tables there are the lists of free pages, which the copy does not have.
            needed, free = used_bytes() + MIB, durable.free_bytes(self._environment.path)
            if free >= needed:
                self._replace_by_copy()
            elif not given:
                raise NoSpaceError(
                    f"{free} bytes are free in {self._environment.path}; a copy of what is in use"
                    f" needs {needed}"
                )
            return before, self._environment.held_bytes()

    def _replace_by_copy(self) -> None:
        for _ in range(COMPACT_ATTEMPTS_MAX):
            with self._environment.copied() as copy, self._writer.turn(maintenance=True):
                if self._environment.is_as(copy):
                    self._environment.switch(copy, tables.TABLES)
                    return
        raise BusyError(
            "volumes were created, mounted or removed each time the store was copied; try again"
        )

    def give_back(self) -> int:
        """Make holes of the file's free room, without a copy; bytes that the disk got.

        Others have their turns in between: a hole can take milliseconds, and there may be many.
        """
        given = page = 0
        while True:
            with self._writer.turn(maintenance=True):
                more, page = self._environment.give_back(page)
            given += more
            if not page:
                return given
            clock.sleep(GIVE_BACK_REST_SECONDS)
