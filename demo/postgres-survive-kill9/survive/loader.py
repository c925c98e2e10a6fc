"""The workload: several connections that commit without pause, and come back after every kill."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

from survive import bank
from survive.ledger import Entry
from survive.psql import Session, SessionLostError

if TYPE_CHECKING:
    from survive.ledger import Ledger

RECONNECT_SECONDS = 0.25
JOIN_SECONDS_MAX = 90.0


class Loader:
    """Workers in threads; each one's transfers have ids that rise in the order of its commits."""

    def __init__(self, container: str, ledger: Ledger, workers: int, rate: float) -> None:
        """Prepares `workers` workers of at most `rate` transactions a second each."""
        self._container = container
        self._ledger = ledger
        self._pause = 1.0 / rate
        self._next_id = ledger.next_id()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self.disconnects = 0
        self.last_error = ""
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name=f"worker-{number}")
            for number in range(workers)
        ]

    def start(self) -> None:
        """Starts the workers."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Lets each worker finish the transaction it is in; returns when all are done."""
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(JOIN_SECONDS_MAX)

    def _take_id(self) -> int:
        with self._lock:
            id_ = self._next_id
            self._next_id += 1
            return id_

    def _work(self, worker: int) -> None:
        chance = random.Random(worker)
        while not self._stopping.is_set():
            session = Session(self._container)
            try:
                # Connecting before an id is taken keeps attempts on a dead server out of the books.
                session.run("SELECT 1;", "connected")
                self._commit_until_lost(session, worker, chance)
            except SessionLostError as error:
                with self._lock:
                    self.disconnects += 1
                    self.last_error = str(error)
            finally:
                session.close()
            self._stopping.wait(RECONNECT_SECONDS)

    def _commit_until_lost(self, session: Session, worker: int, chance: random.Random) -> None:
        while not self._stopping.is_set():
            started = time.monotonic()
            id_ = self._take_id()
            source, target = chance.sample(range(1, bank.ACCOUNTS + 1), 2)
            session.run(
                bank.transfer(id_, worker, source, target, chance.randint(1, 100)),
                f"committed {id_}",
            )
            self._ledger.add(Entry(id_, worker, time.time_ns()))
            self._stopping.wait(max(0.0, started + self._pause - time.monotonic()))
