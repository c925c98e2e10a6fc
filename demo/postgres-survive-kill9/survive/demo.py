"""The demo's parts put together: bring it up, kill, wipe, restore, take it down."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from survive import bank, plugin
from survive.chaos import Chaos, Victim
from survive.engine import Postgres, docker, usable_image
from survive.figures import Figures
from survive.ledger import Ledger
from survive.loader import Loader
from survive.plugin import Plugin
from survive.psql import query, wait_serving
from survive.report import Result
from survive.restores import restore_all, spread
from survive.settings import DemoError
from survive.verify import amcheck, check
from survive.wipe import wipe

if TYPE_CHECKING:
    from contextlib import ExitStack

    from survive.figures import Snapshot
    from survive.screen import Screen
    from survive.settings import Settings

SNAPSHOT_SECONDS_MAX = 60.0
WORK_SECONDS = 2.0


class Demo:
    """One Postgres on one volume, with its ledger; made by `begin` or `join`."""

    def __init__(self, settings: Settings, screen: Screen, image: str) -> None:
        self.settings = settings
        self.screen = screen
        self.result = Result()
        self.postgres = Postgres(settings, image)
        self.figures = Figures(self.postgres)
        self.ledger = Ledger(settings.out / "ledger")
        self.chaos = Chaos(self.postgres, self.figures, self.ledger)
        self.loader: Loader | None = None
        self._count = 0

    @classmethod
    def begin(
        cls, settings: Settings, screen: Screen, stack: ExitStack, *, keep: bool = False
    ) -> Demo:
        """A new volume, a new cluster, an empty ledger; `stack` takes it all down again."""
        settings.out.mkdir(parents=True, exist_ok=True)
        if settings.managed:
            managed = Plugin(settings, keep=keep)
            stack.callback(managed.restore)
            managed.ensure(screen.say)
        image = usable_image(settings, screen.say)
        (settings.out / "ledger").unlink(missing_ok=True)
        demo = cls(settings, screen, image)
        stack.callback(demo.ledger.close)
        # What an interrupted run has left behind is only ever this demo's own.
        demo.postgres.down()
        stack.callback(demo.postgres.down)
        screen.stage(f"starting Postgres ({image}) on a volume of driver {settings.driver}")
        container = demo.postgres.up()
        wait_serving(container)
        query(container, bank.SCHEMA)
        return demo

    @classmethod
    def join(cls, settings: Settings, screen: Screen, stack: ExitStack) -> Demo:
        """The cluster that is up already, with its ledger; raises DemoError if there is none."""
        demo = cls(settings, screen, settings.image)
        stack.callback(demo.ledger.close)
        container = demo.postgres.container()
        demo.postgres.image = docker("inspect", "-f", "{{.Config.Image}}", container)
        return demo

    def load(self, stack: ExitStack) -> None:
        """Starts the loader; `stack` stops it."""
        settings = self.settings
        container = self.postgres.container()
        self.loader = Loader(container, self.ledger, settings.workers, settings.rate)
        stack.callback(self.loader.stop)
        self.loader.start()

    def kill(self, victim: Victim) -> None:
        """One kill, and the check after it."""
        done = self.chaos.kill(victim)
        self.result.kills.append(done)
        self.screen.progress.kills[str(victim)] += 1
        volume = f", volume ready in {done.volume_ms:.1f} ms" if done.volume_ms is not None else ""
        number = len(self.result.kills)
        self.screen.say(f"kill {number}, {victim}: answers in {done.answered_ms:.0f} ms{volume}")
        self.verify()

    def verify(self) -> bool:
        """Compares the table with the ledger and the last count; returns whether all is well."""
        finding = check(self.postgres.container(), self.ledger)
        self.screen.say(f"  {finding}")
        if finding.lost:
            self.problem(f"{len(finding.lost)} acknowledged commits lost")
        if not finding.sums_equal:
            self.problem("the sums differ")
        if finding.count < self._count:
            self.problem(f"the count went back from {self._count} to {finding.count}")
        self._count = finding.count
        self.result.lost = max(self.result.lost, len(finding.lost))
        self._progress(finding.count)
        return finding.good

    def _progress(self, count: int) -> None:
        now = self.screen.progress
        now.count = count
        now.lost = self.result.lost
        now.acknowledged = self.ledger.acknowledged
        if self.settings.managed:
            now.snapshots = int(self.figures.status().get("snapshots", 0))

    def problem(self, text: str) -> None:
        """A promise that was not kept."""
        self.screen.say(f"PROBLEM: {text}")
        if text not in self.result.problems:
            self.result.problems.append(text)

    def kill_for_a_while(self) -> None:
        """Kills at random: as many times as asked for, else for as long as asked for."""
        settings = self.settings
        ends = time.monotonic() + settings.seconds
        while (
            len(self.result.kills) < settings.kills
            if settings.kills is not None
            else time.monotonic() < ends
        ):
            self._work_for(self.chaos.pause())
            self.kill(self.chaos.choose())

    def _work_for(self, seconds: float) -> None:
        """Lets the loader work, and the view with it."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            time.sleep(0.2)
            self.screen.progress.acknowledged = self.ledger.acknowledged

    def await_snapshot(self) -> None:
        """Waits for a snapshot younger than now; raises DemoError when none comes."""
        begun = time.time_ns()
        deadline = time.monotonic() + SNAPSHOT_SECONDS_MAX
        while not any(each.time_ns > begun for each in self.figures.snapshots()[-1:]):
            if time.monotonic() > deadline:
                raise DemoError(f"no snapshot was taken in {SNAPSHOT_SECONDS_MAX:g} s under load")
            time.sleep(0.2)

    def amcheck(self) -> None:
        """Has the server check its own tables and indexes."""
        self.result.amcheck = amcheck(self.postgres.container())
        self.screen.say(f"pg_amcheck --heapallindexed: {self.result.amcheck}")
        if self.result.amcheck not in ("clean", "missing"):
            self.problem("pg_amcheck found damage")

    def wipe(self, *, sudden: bool = False) -> None:
        """Deletes the live directory, with no warning if `sudden`, and has it replayed."""
        self.screen.stage("wiping the live directory" + (" without warning" if sudden else ""))
        if self.loader:
            self._work_for(WORK_SECONDS)
        done = wipe(self.postgres, self.figures, self.ledger, self.chaos, sudden=sudden)
        self.result.wipes.append(done)
        lost = len(done.finding.lost)
        age = f"the last snapshot, {done.snapshot.seq}, was of {done.snapshot.reason}"
        self.screen.say(f"answers in {done.kill.answered_ms:.0f} ms; {age}")
        self.screen.say(f"  {done.finding}; pg_amcheck: {done.amcheck}")
        if lost and done.good:
            self.screen.say(f"  the {lost} lost commits are younger than that snapshot")
        if not done.good:
            self.problem(
                f"the wipe cost more than it may: {lost} commits, {done.too_old} of them older than"
                f" the snapshot, {done.finding.gaps} out of the middle, pg_amcheck {done.amcheck}"
            )
        self._count = done.finding.count
        self._progress(done.finding.count)

    def restore(self, count: int) -> None:
        """Restores `count` snapshots from all over the history, and checks each."""
        if os.geteuid() != 0:
            raise DemoError("restoring files of other owners needs root")
        whole = self._await_snapshots(count)
        entries = self.ledger.expected()
        chosen = spread(whole, count)
        self.screen.stage(f"restoring {len(chosen)} of {len(whole)} snapshots")
        if len(chosen) < count:
            self.problem(f"there are only {len(chosen)} snapshots to restore, not {count}")
        for each in restore_all(self.postgres, chosen, entries):
            self.result.restored.append(each)
            self.screen.say(
                f"snapshot {each.snapshot.seq}: {each.finding}; pg_amcheck: {each.amcheck}"
            )
            if not each.good:
                self.problem(f"restored snapshot {each.snapshot.seq} is not whole")

    def _await_snapshots(self, count: int) -> list[Snapshot]:
        """The `crash` snapshots since the first commit; works on until they are `count`."""
        first_ns = self.ledger.expected()[0].acked_ns
        deadline = time.monotonic() + SNAPSHOT_SECONDS_MAX * max(1, count // 10)
        while True:
            whole = [
                each
                for each in self.figures.snapshots()
                if each.consistency == "crash" and each.time_ns > first_ns
            ]
            if len(whole) >= count or time.monotonic() > deadline:
                return whole
            self._work_for(WORK_SECONDS)

    def finish(self) -> Result:
        """Reads the last figures."""
        self.result.acknowledged = self.ledger.acknowledged
        self.result.disconnects = self.loader.disconnects if self.loader else 0
        if self.settings.managed:
            self.result.snapshots = self.figures.snapshots()
            self.result.metrics_url = plugin.metrics_url()
            self.result.metrics = self.figures.metrics()
            self.result.troubles = [str(each) for each in self.figures.status().get("trouble", [])]
            for name in ("diffkeeper_recovery_total", "diffkeeper_delta_count"):
                if not any(line.startswith(name) for line in self.result.metrics):
                    self.problem(f"the metrics page lacks {name}")
        return self.result
