"""What a target does not take of a restore: a share that refuses owners, say, or attributes.

All content is written first and everything else as far as it goes; the rest is counted and told.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffkeeper import limits

if TYPE_CHECKING:
    from collections.abc import Sequence

REFUSALS_TOLD_MAX = 100  # of what a target refused, the first so many are listed

# What file systems, and those who export them, answer to what they have no form for or forbid.
_REFUSALS = frozenset((
    errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.ENOTTY,
    errno.EILSEQ, errno.ENAMETOOLONG, errno.EEXIST, errno.EMLINK, errno.EFBIG, errno.EOVERFLOW,
    errno.ENODEV,
))  # fmt: skip
# Of attributes there may be too many, or too large ones, where all else has room.
_ATTRIBUTE_REFUSALS = _REFUSALS | {errno.E2BIG, errno.ENOSPC, errno.ERANGE}
ATTRIBUTE = "attribute"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One thing that was not applied: to which path, what, and what the target answered."""

    path: str
    what: str
    problem: str


class Refusals:
    """Collects refusals of one restore; thread safe. Only the first ones are kept, all counted.

    `owner` and `xattrs` say whether those are wanted at all.
    """

    def __init__(self, *, owner: bool = True, xattrs: bool = True) -> None:
        self.owner, self.xattrs = owner, xattrs
        self.counts: Counter[str] = Counter()  # by `Refusal.what`
        self.first: list[Refusal] = []
        self._lock = threading.Lock()

    def record(self, path: Sequence[bytes], what: str, error: OSError, detail: str = "") -> None:
        """Take a refusal; any other error is raised again."""
        if error.errno not in (_ATTRIBUTE_REFUSALS if what == ATTRIBUTE else _REFUSALS):
            raise error
        with self._lock:
            self.counts[what] += 1
            if len(self.first) < REFUSALS_TOLD_MAX:
                shown = os.fsdecode(b"/".join(path)[: limits.TOLD_PATH_BYTES_MAX]) or "."
                problem = error.strerror or str(error)
                self.first.append(Refusal(shown, what, detail + problem))
