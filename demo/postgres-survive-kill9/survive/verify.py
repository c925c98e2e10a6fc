"""Comparing the database with the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from survive.bank import read_state
from survive.inside import attempt_inside
from survive.settings import CHECK_SECONDS_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from survive.bank import State
    from survive.ledger import Entry, Ledger

NOT_FOUND_EXIT_CODE = 127


@dataclass(frozen=True, slots=True)
class Finding:
    """How one instant of the database compares with what it had acknowledged before."""

    count: int  # transfers in the table
    expected: int  # acknowledged commits that had to be there
    lost: tuple[Entry, ...]  # of these, the ones that are not
    gaps: int  # commits that are missing although a later one of the same worker is there
    sums_equal: bool

    @property
    def good(self) -> bool:
        """Whether everything acknowledged is there and all sums are equal."""
        return not self.lost and self.sums_equal

    def __str__(self) -> str:
        sums = "sums equal" if self.sums_equal else "SUMS DIFFER"
        return f"count {self.count}, acknowledged {self.expected}, lost {len(self.lost)}, {sums}"


def compare(state: State, expected: Sequence[Entry]) -> Finding:
    """What `state` lacks of `expected`.

    A crash may cut a worker's commits off, never take one out of the middle: `gaps` counts those.
    """
    newest: dict[int, int] = {}
    for entry in expected:
        if entry.id in state.ids:
            newest[entry.worker] = max(newest.get(entry.worker, 0), entry.id)
    lost = tuple(entry for entry in expected if entry.id not in state.ids)
    return Finding(
        count=len(state.ids),
        expected=len(expected),
        lost=lost,
        gaps=sum(entry.id < newest.get(entry.worker, 0) for entry in lost),
        sums_equal=state.sums_equal,
    )


def check(container: str, ledger: Ledger) -> Finding:
    """Compares a running server with the ledger, also while the loader goes on.

    The ledger is read first: what is acknowledged after that may be in the table or not.
    """
    expected = ledger.expected()
    return compare(read_state(container), expected)


def amcheck(container: str) -> str:
    """What pg_amcheck says of every table and index: 'clean', 'missing', or its complaint."""
    argv = ["pg_amcheck", "-U", "postgres", "--heapallindexed", "bank"]
    code, told = attempt_inside(container, argv, seconds=CHECK_SECONDS_MAX)
    if code == 0:
        return "clean"
    if code in (126, NOT_FOUND_EXIT_CODE) and "not found" in told:
        return "missing"
    return told.strip()[-500:] or f"exit code {code}"
