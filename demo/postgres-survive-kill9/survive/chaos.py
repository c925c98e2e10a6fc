"""The kills: SIGKILL at random, and how long it takes until the database answers again."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from survive.command import attempt
from survive.psql import wait_serving
from survive.settings import SERVING_SECONDS_MAX, DemoError

if TYPE_CHECKING:
    from survive.engine import Postgres
    from survive.figures import Figures
    from survive.ledger import Ledger

# A crashed child takes its postmaster this long to notice.
NOTICE_SECONDS = 0.1
PROGRESS_SECONDS_MAX = 60.0


class Victim(StrEnum):
    """What a SIGKILL is sent to."""

    CONTAINER = "container"
    PROCESS = "server process"
    PLUGIN = "plugin"


WEIGHTS = {Victim.CONTAINER: 7, Victim.PROCESS: 2, Victim.PLUGIN: 1}


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill and the recovery from it."""

    victim: Victim
    answered_ms: (
        float  # from the start command (or the kill, where nothing is started) to an answer
    )
    volume_ms: float | None  # the plugin's own figure for making the volume ready


class Chaos:
    """Kills one thing at a time and sees to it that all is up again."""

    def __init__(self, postgres: Postgres, figures: Figures, ledger: Ledger) -> None:
        self._postgres = postgres
        self._figures = figures
        self._ledger = ledger
        self._random = random.Random()
        self._kills = 0

    def choose(self) -> Victim:
        """A victim by chance; the third is always the plugin, so that no run goes without."""
        self._kills += 1
        managed = self._postgres.settings.managed
        if managed and self._kills == 3:
            return Victim.PLUGIN
        victims = [v for v in Victim if managed or v is not Victim.PLUGIN]
        return self._random.choices(victims, [WEIGHTS[v] for v in victims])[0]

    def pause(self) -> float:
        """How many seconds of work come before the next kill."""
        return self._random.uniform(1.0, 3.5)

    def kill(self, victim: Victim) -> Kill:
        """Kills `victim`; returns when queries are answered and commits acknowledged again."""
        strike = {
            Victim.CONTAINER: self._kill_container,
            Victim.PROCESS: self._kill_process,
            Victim.PLUGIN: self._kill_plugin,
        }[victim]
        done = strike()
        self._await_commits()
        return done

    def restart(self) -> Kill:
        """Starts the dead container; returns how long it took until a query was answered."""
        started = time.monotonic()
        self._postgres.start()
        wait_serving(self._postgres.container())
        answered_ms = (time.monotonic() - started) * 1000
        return Kill(Victim.CONTAINER, answered_ms, self._figures.recovery_ms())

    def _kill_container(self) -> Kill:
        self._postgres.kill()
        return self.restart()

    def _kill_process(self) -> Kill:
        started = time.monotonic()
        self._postgres.kill_process(self._random.choice)
        time.sleep(NOTICE_SECONDS)
        wait_serving(self._postgres.container())
        return Kill(Victim.PROCESS, (time.monotonic() - started) * 1000, None)

    def _kill_plugin(self) -> Kill:
        """The server must go on as if nothing had happened, and the plugin must come back."""
        self._postgres.kill_plugin()
        started = time.monotonic()
        self._await_commits()
        argv = ["docker", "volume", "inspect", self._postgres.settings.volume]
        while attempt(argv)[0] != 0:
            if time.monotonic() - started > SERVING_SECONDS_MAX:
                raise DemoError("the plugin does not come back")
            time.sleep(0.05)
        return Kill(Victim.PLUGIN, (time.monotonic() - started) * 1000, None)

    def _await_commits(self) -> None:
        """Waits for one more acknowledged commit; raises DemoError when none comes."""
        before = self._ledger.acknowledged
        deadline = time.monotonic() + PROGRESS_SECONDS_MAX
        while self._ledger.acknowledged == before:
            if time.monotonic() > deadline:
                raise DemoError("no commit is acknowledged any more")
            time.sleep(0.02)
