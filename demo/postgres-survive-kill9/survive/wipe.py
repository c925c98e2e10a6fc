"""The wipe: the live directory is deleted, and the volume must come back from its history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from survive.bank import read_state
from survive.settings import DemoError
from survive.verify import amcheck, compare

if TYPE_CHECKING:
    from survive.chaos import Chaos, Kill
    from survive.engine import Postgres
    from survive.figures import Figures, Snapshot
    from survive.ledger import Ledger
    from survive.verify import Finding


@dataclass(frozen=True, slots=True)
class Wipe:
    """What a wipe cost."""

    kill: Kill
    kind: str  # what the plugin says that it did
    snapshot: Snapshot  # the newest before the wipe
    finding: Finding
    too_old: int  # lost commits that were acknowledged before the snapshot: there must be none
    amcheck: str
    sudden: bool  # the plugin had no chance to see the last writes

    @property
    def good(self) -> bool:
        """Whether only commits younger than the snapshot are lost, and none out of the middle."""
        return (
            not self.too_old
            and not self.finding.gaps
            and self.finding.sums_equal
            and self.amcheck in ("clean", "missing")
        )


def wipe(
    postgres: Postgres, figures: Figures, ledger: Ledger, chaos: Chaos, *, sudden: bool
) -> Wipe:
    """Kills Postgres under load, deletes the live directory, starts it again, and compares.

    A `sudden` one leaves the plugin no chance to see the last writes. Losses that are allowed are
    written into the ledger, so that later checks don't ask for them.
    """
    delete = _delete_suddenly if sudden else _delete_unmounted
    delete(postgres, figures)
    snapshots = [each for each in figures.snapshots() if each.consistency == "crash"]
    if not snapshots:
        raise DemoError("there is no snapshot to come back from")
    # What is committed after the restart says nothing about the wipe.
    expected = ledger.expected()
    recovery = chaos.restart()
    finding = compare(read_state(postgres.container()), expected)
    done = Wipe(
        kill=recovery,
        kind=figures.recovery_kind(),
        snapshot=snapshots[-1],
        finding=finding,
        too_old=sum(entry.acked_ns < snapshots[-1].time_ns for entry in finding.lost),
        amcheck=amcheck(postgres.container()),
        sudden=sudden,
    )
    if done.good:
        ledger.forgive(entry.id for entry in finding.lost)
    return done


def _delete_unmounted(postgres: Postgres, figures: Figures) -> None:
    """The plugin unmounts, and thereby captures what Postgres wrote last, before the deletion."""
    live = figures.live()
    postgres.kill()
    postgres.wait_unmounted(figures.mounts)
    postgres.delete_live(live)


def _delete_suddenly(postgres: Postgres, figures: Figures) -> None:
    """The plugin is stopped at work, and killed when Postgres and the directory are gone."""
    postgres.delete_suddenly(figures.live())
    postgres.wait_unmounted(figures.mounts)
