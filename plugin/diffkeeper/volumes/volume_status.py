"""What is shown of a volume besides its record. One owner, for all threads.

Changes go through the methods here; everybody else reads. Nothing here blocks for long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffkeeper.volumes.troubles import Troubles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from diffkeeper.format.ids import Root
    from diffkeeper.integrity.verify import Result
    from diffkeeper.space.usage import Account, Accounts
    from diffkeeper.volumes.live import Recovery


@dataclass(frozen=True, slots=True)
class Verification:
    """The last comparison of the live directory with the newest snapshot."""

    result: Result
    seq: int
    root: Root
    time_ns: int

    @property
    def ok(self) -> bool:
        """Whether nothing differed."""
        return not self.result.mismatches


@dataclass(frozen=True, slots=True)
class ShownGroup:
    """Names of the volumes that this one is captured with; why others of its group are missing."""

    names: tuple[str, ...] = ()
    note: str = ""


class VolumeStatus:
    """What one volume shows. Each value is replaced as a whole, so that a reader gets a consistent
    one.

    recovery: how the live directory was obtained; tags: to sequence numbers; forgotten: how many
    snapshots are not stored any more, None before they were counted. `Retention` sets the last two,
    under its lock.
    """

    def __init__(self, tags: Mapping[str, int]) -> None:
        self._troubles = Troubles()
        self._group = ShownGroup()
        self._account: tuple[Account, Accounts] | None = None
        self._verification: Verification | None = None
        self._recovery: Recovery | None = None
        self._tags = tags
        self._forgotten: int | None = None

    @property
    def troubles(self) -> Troubles:
        """What needs a person's attention."""
        return self._troubles

    @property
    def group(self) -> ShownGroup:
        """The group as the last capture or survey found it."""
        return self._group

    def grouped(self, group: ShownGroup) -> None:
        """Set the volumes that it is captured with."""
        self._group = group

    @property
    def account(self) -> tuple[Account, Accounts] | None:
        """What the volume took at the last count, and the whole count; None before."""
        return self._account

    def counted(self, account: tuple[Account, Accounts] | None) -> None:
        """Set the result of a count."""
        self._account = account

    @property
    def verification(self) -> Verification | None:
        """The last verification; None before the first."""
        return self._verification

    def verified(self, found: Verification) -> None:
        """Set the result of a verification; a repair sets it again without the repaired files."""
        self._verification = found

    @property
    def recovery(self) -> Recovery | None:
        """The last recovery; None before the first."""
        return self._recovery

    def recovered(self, how: Recovery) -> None:
        """Set how the live directory was obtained."""
        self._recovery = how

    @property
    def tags(self) -> Mapping[str, int]:
        """Tags to sequence numbers."""
        return self._tags

    def retag(self, tags: Mapping[str, int]) -> None:
        """Replace all tags."""
        self._tags = tags

    @property
    def forgotten(self) -> int | None:
        """Number of snapshots that are not stored any more; None before they were counted."""
        return self._forgotten

    def count_forgotten(self, number: int | None) -> None:
        """Set that number; None has them counted again."""
        self._forgotten = number
