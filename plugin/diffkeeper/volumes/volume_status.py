"""What is known of a volume beside its record, and shown: its one owner, for all threads.

Whoever changes it calls a method here; all else reads. Nothing here blocks for long.
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
    """Names of the volumes that are captured with this one; why it is not all written with it."""

    names: tuple[str, ...] = ()
    note: str = ""


class VolumeStatus:
    """What one volume shows. Each value is replaced whole, never changed: whoever reads one has it
    as it was at one moment.

    recovery: how the live directory came to be there; tags: to numbers of snapshots; forgotten:
    how many snapshots are not stored any more, None before they were counted. The last two are
    told by `Retention`, under its lock.
    """

    def __init__(self, tags: Mapping[str, int]) -> None:
        self.troubles = Troubles()
        self._group = ShownGroup()
        self._account: tuple[Account, Accounts] | None = None
        self._verification: Verification | None = None
        self._recovery: Recovery | None = None
        self._tags = tags
        self._forgotten: int | None = None

    @property
    def group(self) -> ShownGroup:
        """As the last capture, or look at who writes, found it."""
        return self._group

    def grouped(self, group: ShownGroup) -> None:
        """It is captured with these from now on."""
        self._group = group

    @property
    def account(self) -> tuple[Account, Accounts] | None:
        """What the volume took when it was last counted, and the count of all; None before."""
        return self._account

    def counted(self, account: tuple[Account, Accounts] | None) -> None:
        """A count has ended."""
        self._account = account

    @property
    def verification(self) -> Verification | None:
        """The last one; None before."""
        return self._verification

    def verified(self, found: Verification) -> None:
        """A verification has ended, or a repair left less of it."""
        self._verification = found

    @property
    def recovery(self) -> Recovery | None:
        """The last one; None before."""
        return self._recovery

    def recovered(self, how: Recovery) -> None:
        """The live directory is there."""
        self._recovery = how

    @property
    def tags(self) -> Mapping[str, int]:
        """Tag to number of a snapshot."""
        return self._tags

    def retag(self, tags: Mapping[str, int]) -> None:
        """These are all its tags now."""
        self._tags = tags

    @property
    def forgotten(self) -> int | None:
        """How many snapshots are not stored any more; None before they were counted."""
        return self._forgotten

    def count_forgotten(self, number: int | None) -> None:
        """So many are not stored any more; None: they are to be counted again."""
        self._forgotten = number
