"""`make bench`: what this machine makes of mounts, captures, freezes and replays.

Every figure stands beside a peer's or a limit of the machine, measured in the same run, because
absolute times do not travel. Needs root. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from typing import TYPE_CHECKING

from tests.bench import (
    captures,
    containers,
    history,
    hour,
    idle,
    many,
    mounts,
    pages,
    postgres,
    replays,
    writes,
)
from tests.bench.daemon import MeasuredDaemon
from tests.bench.data import postgres_binaries

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.figures import FigureTable

PARTS = (
    "mounts", "replays", "captures", "pages", "many", "writes", "idle", "crowd", "history", "hour",
    "postgres",
)  # fmt: skip
# Where every Docker Engine looks for plugins that it did not install.
PLUGINS = Path("/run/docker/plugins")
QUICK = {
    "mount_files": 2000,
    "many_files": 2000,
    "mounts": 20,
    "cycles": 2,
    "idle_volumes": 3,
    "idle_seconds": 3,
    "rounds": 2,
    "files": 1000,
    "mebibytes": 64,
    "pairs": 1,
    "seconds": 3,
    "scale": 1,
    "states": 3,
    "hour_seconds": 1200,
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs")
    parser.add_argument("--capture", default="ebpf", help="source of the volumes (ebpf)")
    parser.add_argument("--intervals", default="1s,250ms", help="of the volumes under pgbench")
    parser.add_argument("--json", metavar="FILE", help="also write the tables there")
    numbers = {
        "mount-files": (100_000, "files of the volume that is mounted"),
        "many-files": (100_000, "files of the volume that is captured"),
        "mounts": (200, "Mount calls"),
        "cycles": (3, "whole cycles of Mount and last Unmount"),
        "rounds": (5, "repetitions of replays and captures"),
        "files": (20_000, "small files"),
        "mebibytes": (1024, "size of the large file"),
        "idle-volumes": (20, "mounted volumes that nobody writes to"),
        "idle-seconds": (30, "how long they are watched"),
        "pairs": (10, "pairs of pgbench runs for each interval"),
        "seconds": (10, "length of one pgbench run"),
        "scale": (10, "scale of pgbench"),
        "states": (20, "states of the history"),
        "hour-seconds": (4800, "simulated seconds of the hour"),
    }
    for name, (default, text) in numbers.items():
        help_text = f"{text} ({default})"
        parser.add_argument(f"--{name}", type=int, default=default, help=help_text)
    chosen = parser.parse_args()
    if chosen.quick:
        for name, value in QUICK.items():
            setattr(chosen, name, value)
    unknown = set(chosen.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"unknown parts {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return chosen


def machine() -> None:
    """What the figures were taken on, and whether they mean anything."""
    processors = os.cpu_count() or 1
    load = os.getloadavg()[0]
    kernel = f"Linux {platform.release()}, Python {platform.python_version()}"
    print(f"{processors} CPUs ({_model()}), {kernel}, load {load:.2f} before the run")
    if load > processors / 2:
        print("The machine is busy with something else: these figures say little.")
    sys.stdout.flush()


def _model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def part(name: str, chosen: argparse.Namespace, daemon: MeasuredDaemon) -> list[FigureTable]:
    """One part on a daemon of its own; empty, with a reason printed, where it cannot run."""
    capture = chosen.capture
    if name == "mounts":
        return [mounts.measure(daemon, chosen.mount_files, chosen.mounts, chosen.cycles)]
    if name == "captures":
        return captures.measure(daemon, chosen.files, chosen.mebibytes, chosen.rounds, capture)
    if name == "pages":
        return [pages.measure(daemon, chosen.mebibytes, chosen.rounds, capture)]
    if name == "many":
        return [many.measure(daemon, chosen.many_files, chosen.rounds, capture)]
    if name == "idle":
        return [idle.measure(daemon, chosen.idle_volumes, chosen.idle_seconds, capture)]
    binaries = postgres_binaries()
    if binaries is None:
        return _not_run(name, "needs Debian's postgresql: make setup as root")
    return [replays.measure(daemon, binaries, chosen.rounds)]


def _not_run(name: str, reason: str) -> list[FigureTable]:
    print(f"\n{name}: not run, {reason}", flush=True)
    return []


def _postgres(chosen: argparse.Namespace) -> list[FigureTable]:
    reason = containers.missing()
    if reason:
        return _not_run("postgres", reason)
    numbers = chosen.pairs, chosen.seconds, chosen.scale
    tables = []
    for interval in chosen.intervals.split(","):
        run = partial(_one_interval, interval=interval, numbers=numbers, capture=chosen.capture)
        tables += _with_daemon(run, found_by_engine=True)
    return tables


def _one_interval(
    daemon: MeasuredDaemon, interval: str, numbers: tuple[int, int, int], capture: str
) -> list[FigureTable]:
    return [postgres.measure(daemon, interval, *numbers, capture)]


def _history(chosen: argparse.Namespace) -> list[FigureTable]:
    binaries = postgres_binaries()
    if binaries is None:
        return _not_run("history", "needs Debian's postgresql: make setup as root")
    tables = history.run(binaries, chosen.scale, chosen.states)
    for table in tables:
        table.show()
    return tables


def _hour(chosen: argparse.Namespace) -> list[FigureTable]:
    with tempfile.TemporaryDirectory(prefix="dk-hour-") as base:
        table = hour.measure(Path(base), chosen.hour_seconds)
    table.show()
    return [table]


def _writes(chosen: argparse.Namespace) -> list[FigureTable]:
    reason = writes.missing()
    if reason:
        return _not_run("writes", reason)
    tables = writes.run(chosen.rounds, chosen.many_files)
    for table in tables:
        table.show()
    return tables


def main() -> int:
    """Run the chosen parts; returns the exit code."""
    chosen = arguments()
    if os.geteuid() != 0:
        print("needs root, as the daemon does: it mounts and freezes", file=sys.stderr)
        return 2
    os.environ["PATH"] += f"{os.pathsep}/usr/sbin{os.pathsep}/sbin"
    machine()
    began = time.monotonic()
    tables: list[FigureTable] = []
    for name in chosen.parts.split(","):
        if name == "writes":
            tables += _writes(chosen)
        elif name == "history":
            tables += _history(chosen)
        elif name == "hour":
            tables += _hour(chosen)
        elif name == "crowd":
            tables += _with_daemon(lambda daemon: [idle.unmounted(daemon, chosen.idle_seconds)])
            for capture in ("inotify", "ebpf"):
                tables += _with_daemon(partial(_mounted, chosen.idle_seconds, capture))
        elif name == "postgres":
            tables += _postgres(chosen)
        else:
            tables += _with_daemon(partial(part, name, chosen))
    print(f"{time.monotonic() - began:.0f} s in all")
    if chosen.json:
        Path(chosen.json).write_text(json.dumps([table.as_json() for table in tables], indent=1))
    return 0


def _mounted(seconds: float, capture: str, daemon: MeasuredDaemon) -> list[FigureTable]:
    return [idle.mounted(daemon, seconds, capture)]


def _with_daemon(
    run: Callable[[MeasuredDaemon], list[FigureTable]], *, found_by_engine: bool = False
) -> list[FigureTable]:
    daemon = MeasuredDaemon(found_by_engine=found_by_engine)
    try:
        daemon.start()
        tables = run(daemon)
        for table in tables:
            table.show()
        return tables
    except BaseException:
        if daemon.log_path.exists():
            shutil.copy(daemon.log_path, "/tmp/diffkeeper-bench.log")
            print("the daemon's log: /tmp/diffkeeper-bench.log", file=sys.stderr)
        raise
    finally:
        daemon.close()


if __name__ == "__main__":
    sys.exit(main())
