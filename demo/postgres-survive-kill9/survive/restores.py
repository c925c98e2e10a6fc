"""Earlier states: snapshots from all over the history, each restored, started and checked."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from survive import plugin
from survive.bank import read_state
from survive.command import command
from survive.engine import docker
from survive.psql import wait_serving
from survive.settings import BUILD_SECONDS_MAX, DemoError
from survive.verify import amcheck, compare

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from survive.engine import Postgres
    from survive.figures import Snapshot
    from survive.ledger import Entry
    from survive.verify import Finding


@dataclass(frozen=True, slots=True)
class Restored:
    """How one restored snapshot compares with what had been acknowledged before it."""

    snapshot: Snapshot
    finding: Finding
    amcheck: str

    @property
    def good(self) -> bool:
        """Whether the copy is whole: commits, order, sums, and every index against its table."""
        return self.finding.good and not self.finding.gaps and self.amcheck in ("clean", "missing")


def spread(snapshots: Sequence[Snapshot], count: int) -> list[Snapshot]:
    """`count` of the snapshots at even distances, the first and the last among them."""
    if count >= len(snapshots):
        return list(snapshots)
    if count == 1:
        return [snapshots[-1]]
    last = len(snapshots) - 1
    return [snapshots[round(n * last / (count - 1))] for n in range(count)]


def restore_all(
    postgres: Postgres, chosen: Sequence[Snapshot], entries: Sequence[Entry]
) -> Iterator[Restored]:
    """Restores the snapshots one by one beside the running database, and checks each."""
    for snapshot in chosen:
        # Each copy has a directory of its own, and is gone before the next one is made.
        target = postgres.settings.out / f"restored-{snapshot.seq}"
        shutil.rmtree(target, ignore_errors=True)
        try:
            yield _restore(postgres, snapshot, entries, target)
        finally:
            shutil.rmtree(target, ignore_errors=True)


def _restore(
    postgres: Postgres, snapshot: Snapshot, entries: Sequence[Entry], target: Path
) -> Restored:
    settings = postgres.settings
    reference = f"{settings.volume}@{snapshot.seq}"
    argv = [*plugin.cli(settings), "restore", reference, "--to", str(target)]
    command(argv, seconds=BUILD_SECONDS_MAX)
    container = docker(
        "run", "-d", "--network", "none", "--shm-size", "128m",
        "-v", f"{target.resolve()}:/var/lib/postgresql/data",
        "-e", f"POSTGRES_PASSWORD={settings.password}",
        "-e", "PGDATA=/var/lib/postgresql/data", postgres.image,
    )  # fmt: skip
    try:
        wait_serving(container)
        before = [entry for entry in entries if entry.acked_ns < snapshot.time_ns]
        return Restored(snapshot, compare(read_state(container), before), amcheck(container))
    except DemoError as error:
        log = docker("logs", "--tail", "5", container)
        raise DemoError(f"snapshot {snapshot.seq}: {error}\n{log}") from None
    finally:
        docker("rm", "-f", "-v", container)
