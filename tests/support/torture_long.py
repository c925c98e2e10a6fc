"""`make torture`: runs the torture over many seeds until time is up, and sums up.

A difference is printed with all that it takes to find it again, and ends its seed, not the run.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from diffkeeper.sources.ebpf.probe import Sources
from tests.support import disks
from tests.support.torture import LEFT_OUT, Plan, Torture, TortureResult

if TYPE_CHECKING:
    from collections.abc import Iterator

SNAPSHOTS_PER_SEED = 60


@dataclass
class Sum:
    """What was found for one file system and source."""

    compared: int = 0
    differences: int = 0
    fuzzy: int = 0
    seeds: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    freeze_ms_max: float = 0.0

    def add(self, seed: str, result: TortureResult) -> None:
        """One more run."""
        self.seeds.append(seed)
        self.compared += result.compared
        self.differences += len(result.differences)
        self.fuzzy += len(result.fuzzy)
        self.freeze_ms_max = max(self.freeze_ms_max, result.freeze_ms_max)
        if result.differences:
            self.failed.append(seed)

    def __str__(self) -> str:
        seeds = f"{self.seeds[0]} to {self.seeds[-1]}" if self.seeds else "none"
        return (
            f"{self.compared} snapshots compared, {self.differences} differences"
            f" (seeds {', '.join(self.failed) or '-'}), {self.fuzzy} fuzzy, seeds {seeds},"
            f" freeze at most {self.freeze_ms_max:.1f} ms"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--fs", default=",".join(disks.KINDS))
    parser.add_argument("--sources", default=",".join(LEFT_OUT))
    parser.add_argument("--snapshots", type=int, default=SNAPSHOTS_PER_SEED, help="of each seed")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kinds", default="", help="these alone, by commas; also of modules")
    parser.add_argument("--without", default="", help="kinds to leave out, by commas")
    return parser.parse_args()


def _split(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="torture-"))
    try:
        yield base
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", str(base)], check=True)


def _run(plan: Plan, disk: Path, sources: Sources) -> TortureResult:
    with _directory() as base:
        run = Torture(plan, disk, base, sources)
        try:
            return run.run()
        finally:
            run.close()


def _seed(arguments: argparse.Namespace, seed: str, sources: Sources, sums: dict[str, Sum]) -> None:
    """One seed over all file systems and sources, each file system made anew."""
    for fs in _split(arguments.fs):
        with _directory() as base, disks.file_system(fs, base) as disk:
            for source in _split(arguments.sources):
                plan = Plan(
                    fs, source, seed, arguments.snapshots, arguments.processes, arguments.threads,
                    _split(arguments.kinds), _split(arguments.without),
                )  # fmt: skip
                result = _run(plan, disk, sources)
                sums.setdefault(f"{fs}, {source}", Sum()).add(seed, result)
                print(f"{plan}: {result}", *result.differences, sep="\n  ", flush=True)


def main() -> int:
    """1 when anything differed."""
    arguments = _arguments()
    # What is mounted and frozen is given back, too, when somebody ends the run.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    deadline = time.monotonic() + 60 * arguments.minutes
    sums: dict[str, Sum] = {}
    sources = Sources()
    seed = arguments.seed
    try:
        while time.monotonic() < deadline:
            _seed(arguments, str(seed), sources, sums)
            seed += 1
    finally:
        sources.close()
        for name, found in sums.items():
            print(f"{name}: {found}", flush=True)
    return int(any(found.failed for found in sums.values()))


if __name__ == "__main__":
    sys.exit(main())
