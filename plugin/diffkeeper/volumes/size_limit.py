"""The option `size`: a limit on the live directory, enforced by the file system. Blocks.

The live directory has a project quota; its project number is stored in the directory itself. A
replay is counted but not limited: a state larger than the limit comes back whole, and nothing more
can be written until something is deleted.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from diffkeeper.errors import ConflictError, DiffKeeperError, UnsupportedError
from diffkeeper.fsio import durable, hostpath, mountinfo, project_quota
from diffkeeper.volumes.units import format_size

if TYPE_CHECKING:
    from diffkeeper.volumes.troubles import Troubles

NEEDED = (
    "it takes Linux 5.14, and XFS that is mounted with pquota, or ext4 that has the features quota"
    " and project (tune2fs -O quota,project) and is mounted with prjquota"
)


class SizeLimit:
    """Limit of one live directory."""

    def __init__(self, live: str, number: int, proc_root: str, size: int | None) -> None:
        """`number`: volume id, where the search for a free project number begins; `size`: bytes,
        None for no limit.
        """
        self._size = size
        self._used: int | None = None
        self._uncounted = "its files are not counted yet; stop all of its containers for that"
        self._live = live
        self._number = number
        self._proc_root = proc_root

    @property
    def used(self) -> int | None:
        """Bytes at the last check; None while nothing is limited."""
        return self._used

    def set_size(self, size: int | None) -> None:
        """This is the limit from the next `enforce` on."""
        self._size = size

    def begin(self, directory: str) -> None:
        """Count all files that will be made in an empty directory, the future live directory.

        An error here is reported by `enforce`, which meets it again.
        """
        with contextlib.suppress(OSError, UnsupportedError):
            if self._size is not None and not project_quota.lack(directory):
                project_quota.allot(directory, self._number, self._size)

    def enforce(self, aside: str) -> str:
        """Apply the limit to the live directory; why that failed, or "".

        aside: path of an empty directory beside it, needed to count files that exist already; ""
        while containers may use the live directory, which is then left as it is.
        """
        try:
            self._used = self._limited(self._size, aside)
        except (OSError, DiffKeeperError) as error:
            self._used = None
            wanted = f"of {format_size(self._size)} " if self._size is not None else ""
            return f"its size {wanted}is not enforced: {error}"
        return ""

    def _limited(self, size: int | None, aside: str) -> int | None:
        """Set the limit; bytes used now, None without a limit."""
        if size is None:
            project_quota.lift(self._live, self._number)
            return None
        refuse_unsupported(self._live, self._proc_root)
        if not project_quota.is_ours(self._live):
            self._count(size, aside)
        found = project_quota.quota(self._live)
        if not found.holds(size):
            project_quota.limit(self._live, size)
        return found.used

    def _count(self, size: int, aside: str) -> None:
        """Give the live directory a project."""
        if not aside:
            raise UnsupportedError(self._uncounted)
        durable.make_directory(aside, 0o700)
        try:
            project_quota.adopt(self._live, project_quota.allot(aside, self._number, size))
        except OSError as error:
            self._uncounted = f"its files cannot be counted: {error}"
            raise UnsupportedError(self._uncounted) from error
        finally:
            durable.remove_tree(aside)

    def refuse(self, *, mounted: bool) -> None:
        """UnsupportedError where no limit can be set, ConflictError where that needs it
        unmounted.
        """
        where = self._live
        while not os.path.isdir(where):
            where = os.path.dirname(where)
        refuse_unsupported(where, self._proc_root)
        if where == self._live and mounted and not project_quota.is_ours(where):
            raise ConflictError(
                "option size: the files of this volume are not counted so far, and that is begun"
                " only while nothing has it mounted; stop its containers first"
            )


def apply(limit: SizeLimit, troubles: Troubles, aside: str = "") -> None:
    """Apply the limit, see `SizeLimit.enforce`; an error becomes a trouble."""
    trouble = limit.enforce(aside)
    if trouble:
        troubles.begin("size", trouble)
    else:
        troubles.end("size")


def refuse_unsupported(directory: str, proc_root: str) -> None:
    """UnsupportedError where the file system of an existing directory cannot limit its size."""
    why = project_quota.lack(directory)
    if not why:
        return
    _, _, kind = mountinfo.locate(directory)
    point = hostpath.mount_of(directory, proc_root) or "a place that the host has no name for"
    name = hostpath.of(directory, proc_root).path or directory
    raise UnsupportedError(
        f"option size: the file system of {name} ({kind}, mounted at {point}) limits no directory:"
        f" {why}; {NEEDED}"
    )
