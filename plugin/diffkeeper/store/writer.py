"""The only way to a write transaction: one at a time, with space, durable, its packs registered
afterwards.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from diffkeeper import clock, failpoint
from diffkeeper.errors import NoSpaceError
from diffkeeper.store.environment import MapFull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from diffkeeper.store.environment import Environment
    from diffkeeper.store.objects import Objects
    from diffkeeper.store.transaction import Transaction

Made = list[tuple[int, list[bytes]]]  # packs: number, and the digests in their order


class Writer:
    """Transactions follow one another. Locks are taken in this order: the turn, `Objects.lock`, the
    environment's gate.
    """

    def __init__(self, environment: Environment, objects: Objects) -> None:
        self._environment = environment
        self._objects = objects
        self._turn = threading.Lock()
        self._maintenance = False  # maintenance has the turn
        self._copies = threading.Condition()
        self._copying = False  # a copy is made: only urgent commits are written
        self._admitted = 0  # blocks in `between_copies`
        self.wait_seconds_max = 0.0  # that a commit waited for maintenance

    @contextmanager
    def turn(self, *, maintenance: bool = False) -> Iterator[None]:
        """Nobody else writes inside the block."""
        started, behind = clock.monotonic(), self._maintenance
        with self._turn:
            if behind and not maintenance:
                waited = clock.monotonic() - started
                self.wait_seconds_max = max(self.wait_seconds_max, waited)
            self._maintenance = maintenance
            try:
                yield
            finally:
                self._maintenance = False

    @contextmanager
    def copying(self) -> Iterator[None]:
        """Inside the block a copy of the store is made: commits wait that are not `urgent`."""
        with self._copies:
            self._copies.wait_for(lambda: not self._copying and not self._admitted)
            self._copying = True
        try:
            yield
        finally:
            with self._copies:
                self._copying = False
                self._copies.notify_all()

    @contextmanager
    def between_copies(self) -> Iterator[None]:
        """Waits for the end of a copy; inside the block none begins, so that no commit waits.

        For who needs a lock for a commit that others need for urgent ones. May be nested.
        """
        with self._copies:
            self._copies.wait_for(lambda: not self._copying)
            self._admitted += 1
        try:
            yield
        finally:
            with self._copies:
                self._admitted -= 1
                self._copies.notify_all()

    def commit(
        self,
        act: Callable[[Transaction], Made],
        size: int,
        name: str,
        when_durable: Callable[[], None] = lambda: None,
        *,
        urgent: bool = False,
    ) -> None:
        """Run `act` in a durable transaction; the packs that it returns are registered afterwards.

        `size`: bytes that it may add; `name`: of the failpoints. `urgent`: it does not wait for a
        copy that is made, and the ballast is freed if there is no space, as for all maintenance,
        which makes space. `when_durable` is called once what `act` wrote is durable, before another
        transaction. NoSpaceError, and whatever `act` raises: nothing is changed then.
        """
        maintenance = name != "store"
        admitted = nullcontext() if urgent else self.between_copies()
        with admitted, self.turn(maintenance=maintenance), self._objects.moving():
            while not self._written(act, name, urgent=urgent or maintenance):
                self._environment.grow(4 * size)
            when_durable()
        failpoint.hit(f"{name}.after_commit")

    def _written(self, act: Callable[[Transaction], Made], name: str, *, urgent: bool) -> bool:
        """One attempt; false when the map is too small."""
        try:
            with self._environment.write() as txn:
                made = act(txn)
                failpoint.hit(f"{name}.before_commit")
        except MapFull:
            return False
        except NoSpaceError:
            # The pages written so far would keep the disk full for everyone else.
            self._environment.keep_spare()
            if urgent and self._environment.drop_ballast():
                return self._written(act, name, urgent=False)
            raise
        self._objects.mark_durable(made)
        self._environment.keep_spare()
        return True
