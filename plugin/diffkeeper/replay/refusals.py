"""What the target of a restore refuses, for example a share without owners or attributes.

All content is written first and everything else as far as possible; the rest is counted and
reported.
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

REFUSALS_TOLD_MAX = 100  # refusals that are listed; all are counted

# Errors for what a file system, or the server of a share, does not support or allow.
_REFUSALS = frozenset((
    errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.ENOTTY,
    errno.EILSEQ, errno.ENAMETOOLONG, errno.EEXIST, errno.EMLINK, errno.EFBIG, errno.EOVERFLOW,
    errno.ENODEV,
))  # fmt: skip
# Attributes may be too many, or too large, where everything else fits.
_ATTRIBUTE_REFUSALS = _REFUSALS | {errno.E2BIG, errno.ENOSPC, errno.ERANGE}
ATTRIBUTE = "attribute"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refusal: path, what, and the target's error."""

    path: str
    what: str
    problem: str


class Refusals:
    """Collects refusals of one restore; thread safe. Some are listed, all are counted.

    `owner` and `xattrs` say whether those are wanted at all.
    """

    def __init__(self, *, owner: bool = True, xattrs: bool = True) -> None:
        self.owner, self.xattrs = owner, xattrs
        self.counts: Counter[str] = Counter()  # by `Refusal.what`
        self.first: list[Refusal] = []
        self._lock = threading.Lock()

    def record(self, path: Sequence[bytes], what: str, error: OSError, detail: str = "") -> None:
        """Record a refusal; any other error is raised again."""
        if error.errno not in (_ATTRIBUTE_REFUSALS if what == ATTRIBUTE else _REFUSALS):
            raise error
        with self._lock:
            self.counts[what] += 1
            if len(self.first) < REFUSALS_TOLD_MAX:
                shown = os.fsdecode(b"/".join(path)[: limits.TOLD_PATH_BYTES_MAX]) or "."
                problem = error.strerror or str(error)
                self.first.append(Refusal(shown, what, detail + problem))
