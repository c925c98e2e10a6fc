"""`make soak MINUTES=n`: starts an engine and the plugin; ends with 1 when it found anything."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.docker.engine import REPOSITORY, DockerEngine, import_image
from tests.docker.makers import free_port
from tests.docker.managed import ManagedPlugin
from tests.soak import samples, workloads
from tests.soak.disk import Disk
from tests.soak.workloads import Workload
from tests.support import processes
from tests.support.engine_root import OWN, RELEASES

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLE_SECONDS = 10.0
GRACE_SECONDS = 40.0  # after harm, in which troubles and old snapshots are its own doing
HARM_SECONDS = (25.0, 60.0)
INTERVAL_SECONDS = 1.0
FULL_SECONDS = 30.0
LOGS_SECONDS = 660.0  # for which `Workload.look` meets what was said before
REMOVED_SECONDS_MAX = 120.0  # a removal that takes longer than the engine waits goes on


class Soak:
    """One run."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._seconds = 60 * given.minutes
        self._random = random.Random(given.seed)
        self._given = given
        self._engine = DockerEngine(given.engine)
        # Disks that are mounted here must be there where the engine looks.
        parent = self._engine.root.shared or Path("/var/lib")
        self._base = Path(tempfile.mkdtemp(prefix="dk-soak-", dir=parent))
        long = given.minutes >= 30
        retention = "1m:all,10m:10s" if long else "20s:all,1m:10s"
        self._warm_up = 11 * 60.0 if long else max(70.0, self._seconds / 3)
        self._options = (f"retention={retention}",)
        self._samples: list[samples.PluginSample] = []
        self._findings: list[str] = []
        self._harmed = 0.0
        self._made = 0
        self._filled = 0.0  # when the disk was full last
        self._harm: dict[str, int] = {}
        self._acknowledged: dict[str, int] = {}
        self._workloads: list[Workload] = []

    def run(self) -> int:
        """0 when nothing was found."""
        try:
            self._start()
            self._watch()
            self._end()
        finally:
            self._clean()
        return self._report()

    def _start(self) -> None:
        build = self._base / "plugin"
        command = [str(REPOSITORY / "rootfs-build" / "build-rootfs.sh"), str(build)]
        subprocess.run(command, check=True, timeout=600, capture_output=True)
        self._engine.start()
        import_image(self._engine, workloads.IMAGE, workloads.PACKAGES, self._given.engine)
        state = self._base / "state"
        self._disk = Disk(self._base / "disk", state)
        self._plugin = ManagedPlugin(self._engine, "diffkeeper", build, state, free_port())
        self._plugin.create()
        self._plugin.enable()
        ledger = self._base / "ledger"
        ledger.mkdir()
        environment = {"SOAK_FILES": self._given.files, "SOAK_RATE": self._given.rate}
        self._workloads = [
            Workload(self._engine, self._plugin, kind, ledger, self._options, environment)
            for kind in self._given.only or workloads.KINDS
        ]
        for workload in self._workloads:
            workload.start()
        for workload in self._workloads:
            workload.begin()
        self._sampler = samples.Sampler(self._plugin, [w.volume for w in self._workloads])
        self._began = time.monotonic()

    def _watch(self) -> None:
        """Samples and harm, until time is up."""
        end = self._began + self._seconds
        sample = harm = self._began + SAMPLE_SECONDS
        if self._given.calm:
            harm = end
        fill = harm + (end - harm) / 2
        self._harmed = self._began  # databases are created
        while (now := time.monotonic()) < end:
            if now >= sample:
                sample = now + SAMPLE_SECONDS
                self._sample()
            if now >= fill:
                fill = end
                self._fill_disk()
            elif now >= harm and end - now > GRACE_SECONDS:
                harm = now + self._random.uniform(*HARM_SECONDS)
                self._do_harm()
                self._harmed = time.monotonic()
            time.sleep(0.5)

    def _sample(self) -> None:
        try:
            sample = self._sampler.take()
        except OSError as error:
            if time.monotonic() - self._harmed > GRACE_SECONDS:
                self._find(f"the plugin does not answer: {error}")
            return
        self._samples.append(sample)
        if time.monotonic() - self._harmed > GRACE_SECONDS:
            for text in (*samples.avoidable(sample), *samples.stale(sample, INTERVAL_SECONDS)):
                self._find(text)
        for workload in self._workloads:
            calm = time.monotonic() - self._harmed > GRACE_SECONDS
            if calm and time.monotonic() - self._filled > LOGS_SECONDS:
                workload.excused = False
            if not workload.running():
                workload.up(excused=not calm)
            for text in workload.news():
                self._find(text)

    def _fill_disk(self) -> None:
        """Once: the state's disk is full for a while, history gives room, all goes on after it."""
        print(f"{time.monotonic() - self._began:6.0f} s  the disk is full", flush=True)
        self._harm["fill the disk"] = 1
        for workload in self._workloads:
            workload.excused = True
        self._disk.fill()
        time.sleep(FULL_SECONDS)
        self._disk.empty()
        self._filled = time.monotonic()
        for workload in self._workloads:
            workload.up()
        self._harmed = time.monotonic()

    def _find(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:6.0f} s  FOUND {text}", flush=True)
        self._findings.append(text)

    def _do_harm(self) -> None:
        harms: dict[str, tuple[int, Callable[[Workload], None]]] = {
            "kill a container": (5, Workload.kill),
            "restart a container": (3, self._restart),
            "kill the plugin": (3, lambda _: self._plugin.kill()),
            "kill the engine": (1, lambda _: self._kill_engine()),
            "clone and check": (3, self._clone),
            "remove and undelete": (2, self._undelete),
            "restore and check": (3, self._restore),
        }
        name = self._random.choices(list(harms), [weight for weight, _ in harms.values()])[0]
        workload = self._random.choice(self._workloads)
        print(f"{time.monotonic() - self._began:6.0f} s  {name} ({workload.kind})", flush=True)
        self._harm[name] = self._harm.get(name, 0) + 1
        try:
            harms[name][1](workload)
        except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
            self._find(f"{name} ({workload.kind}): {str(error)[-1500:]}")

    def _restart(self, workload: Workload) -> None:
        self._engine.docker("restart", "--time", "2", workload.container)
        workload.look()

    def _kill_engine(self) -> None:
        self._engine.kill()
        self._engine.start()
        self._plugin.wait_ready(60)
        for workload in self._workloads:
            workload.up()

    def _new_clone(self, workload: Workload, trash: str = "off") -> str:
        """`trash`: its option; a week in the trash, by default, would be what the store has."""
        self._made += 1
        name, options = f"clone-{self._made}", (f"from={workload.volume}", f"trash={trash}")
        given = [word for option in options for word in ("-o", option)]
        self._engine.docker("volume", "create", "-d", self._plugin.name, *given, name)
        workload.check(name, "clone")
        return name

    def _clone(self, workload: Workload) -> None:
        self._remove(self._new_clone(workload))

    def _remove(self, name: str) -> None:
        self._engine.attempt("volume", "rm", name)
        processes.wait_for(
            lambda: name not in self._engine.docker("volume", "ls", "-q").split(),
            f"{name} is removed",
            REMOVED_SECONDS_MAX,
        )

    def _undelete(self, workload: Workload) -> None:
        """A clone goes, comes back, and is still whole."""
        name = self._new_clone(workload, trash="5m")
        self._remove(name)
        done = self._plugin.cli("undelete", name)
        assert done.returncode == 0, done.stdout + done.stderr
        workload.check(name, "volume that came back")
        self._remove(name)

    def _restore(self, workload: Workload) -> None:
        taken = [
            snapshot
            for snapshot in self._plugin.snapshots(workload.volume)
            if snapshot["consistency"] == "crash" and snapshot["seq"] >= workload.begun
        ]
        if taken:
            chosen = self._random.choice(taken[len(taken) // 2 :])
            workload.restored(chosen["seq"], self._base / "restored")

    def _end(self) -> None:
        """At rest everything is whole."""
        for workload in self._workloads:
            workload.look()
            self._engine.docker("rm", "--force", workload.container)
        for command in (("maintain", "--now"), ("scrub",), ("doctor",)):
            done = self._plugin.cli(*command, "--json")
            if done.returncode:
                self._find(f"{' '.join(command)}: {done.stdout[-1500:]}{done.stderr[-500:]}")
            elif command == ("scrub",) and json.loads(done.stdout)["damaged_objects"]:
                self._find(f"scrub: {done.stdout[-1500:]}")
        for workload in self._workloads:
            done = self._plugin.cli("verify", workload.volume, "--json")
            if done.returncode:
                self._find(f"verify {workload.volume}: {done.stdout[-1000:]}{done.stderr[-500:]}")
            workload.check(workload.volume, "the volume itself")
            self._restore(workload)
            self._acknowledged[workload.kind] = workload.acknowledged
            if not workload.acknowledged:
                self._find(f"{workload.kind} has committed nothing")
            for text in workload.news():
                self._find(text)

    def _clean(self) -> None:
        log = self._engine.log
        self._engine.clean()
        processes.unmount_below(self._base)
        (REPOSITORY / "build" / "soak.log").write_text(log)
        if self._samples:
            picture = samples.picture(self._samples)
            (REPOSITORY / "build" / "soak.svg").write_text(picture)
        if self._base.exists():  # another release's engine takes it along
            shutil.rmtree(self._base)

    def _report(self) -> int:
        self._findings += samples.grown(self._samples, self._warm_up)
        minutes = (time.monotonic() - self._began) / 60
        print(f"\n{minutes:.0f} minutes, {len(self._samples)} samples; build/soak.svg, soak.log\n")
        print(samples.table(self._samples))
        print("\nharm:", ", ".join(f"{name} {n}" for name, n in sorted(self._harm.items())))
        for kind, count in self._acknowledged.items():
            print(f"{kind}: {count} commits acknowledged")
        print(f"\n{len(self._findings)} findings")
        for text in self._findings:
            print(f"- {text}")
        return int(bool(self._findings))


def main() -> int:
    """Parse, run."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--engine", choices=RELEASES, default=OWN, help="its databases, too")
    parser.add_argument("--only", action="append", choices=workloads.KINDS)
    parser.add_argument("--rate", type=int, default=100, help="of pgbench; 0: as fast as it can")
    parser.add_argument("--calm", action="store_true", help="no harm is done")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    return Soak(arguments).run()


if __name__ == "__main__":
    sys.exit(main())
