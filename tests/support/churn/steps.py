"""All kinds of steps, and one thread that takes them."""

from __future__ import annotations

import errno
import os
import random
import time
from typing import TYPE_CHECKING

from tests.support.churn import aio, mappings, names, space, uring, writes
from tests.support.churn.actor import KINDS, Actor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.churn.tally import Tally

__all__ = ["KINDS", "MODULES", "ThreadSteps", "chosen"]

MODULES = (writes, space, mappings, names, aio, uring)
# What a call fails with when a name is not there, or not of the kind that the change needs, or
# when the file system knows no such change, or a freeze interrupted it.
EXPECTED = frozenset(
    {
        errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ELOOP,
        errno.EINVAL, errno.EFAULT, errno.ENXIO, errno.ENAMETOOLONG, errno.EBUSY, errno.EPERM,
        errno.EAGAIN, errno.ESPIPE, errno.EBADF, errno.EOPNOTSUPP, errno.ENODEV, errno.EINTR,
        errno.ENODATA, errno.EMLINK, errno.EXDEV, errno.EPIPE, errno.ECHILD, errno.ETXTBSY,
        # The kernel tells a sync so of pages that direct I/O could not drop from the cache.
        errno.EIO,
    }
)  # fmt: skip
PAUSES = (0.0, 0.0, 0.001, 0.004)


def chosen(only: Sequence[str], without: Sequence[str]) -> list[str]:
    """Names of the kinds to choose from; a module's name stands for all of its kinds."""
    modules = {m.__name__.rpartition(".")[2]: m.__name__ for m in MODULES}

    def spread(wanted: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for name in wanted:
            of = {k.name for k in KINDS.values() if k.act.__module__ == modules.get(name)}
            if not of and name not in KINDS:
                raise SystemExit(f"there is no kind {name!r}: {', '.join([*modules, *KINDS])}")
            found |= of or {name}
        return found

    kept = (spread(only) or set(KINDS)) - spread(without)
    return [name for name in KINDS if name in kept]


class ThreadSteps:
    """The steps of one thread; `log` is told of each that is done."""

    def __init__(
        self,
        actor: Actor,
        seed: str,
        kinds: Sequence[str],
        tally: Tally,
        log: Callable[[str], None],
    ) -> None:
        self._actor = actor
        self._seed = seed
        self._kinds = [KINDS[name] for name in kinds]
        self._weights = [kind.weight for kind in self._kinds]
        self._tally = tally
        self._log = log
        self._steps = 0

    def step(self) -> None:
        """One step, drawn from the seed and its number alone."""
        self._steps += 1
        actor = self._actor
        actor.random = random.Random(f"{self._seed}/{self._steps}")
        actor.notes.clear()
        (kind,) = actor.random.choices(self._kinds, self._weights)
        pause = actor.random.choice(PAUSES)
        began = time.monotonic()
        failed = 0
        try:
            kind.act(actor)
        except OSError as error:
            if error.errno not in EXPECTED:
                raise
            failed = error.errno or 0
        self._tally.add(kind.name, failed=bool(failed))
        names = " ".join(actor.notes)
        outcome = errno.errorcode.get(failed, "") if failed else "done"
        self._log(f"{began:.6f} {time.monotonic():.6f} {kind.name} {outcome} {actor.last} {names}")
        if pause:
            time.sleep(pause)


def make(base: str, outside: str, tag: str) -> Actor:
    """An actor whose outside directory is there."""
    os.makedirs(outside, exist_ok=True)
    return Actor(base, outside, tag)
