"""Sizes and space: truncation, and every kind of fallocate(2)."""

from __future__ import annotations

import os

from tests.support.churn import syscalls
from tests.support.churn.actor import LARGE_BYTES, PAGE, Actor, kind
from tests.support.churn.syscalls import COLLAPSE, INSERT, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE


@kind(3)
def truncate(actor: Actor) -> None:
    """Shorter or longer."""
    path = actor.name()
    os.truncate(path, actor.random.choice((0, actor.position(path), actor.position(path))))


@kind(1)
def truncate_little(actor: Actor) -> None:
    """Within a page, so that only its rest turns to zeros; and longer again at once."""
    with actor.opened(actor.name()) as fd:
        size = os.fstat(fd).st_size
        os.ftruncate(fd, max(0, size - actor.random.randrange(1, PAGE)))
        if actor.random.random() < 0.5:
            os.ftruncate(fd, size)


def _allocate(actor: Actor, mode: int, unit: int = 1) -> None:
    path = actor.name()
    with actor.opened(path, os.O_RDWR) as fd:
        start = actor.position(path) // unit * unit
        length = max(unit, actor.random.randrange(1, 200_000) // unit * unit)
        if os.fstat(fd).st_size < LARGE_BYTES:
            syscalls.fallocate(fd, mode, start, length)


@kind(2)
def allocate(actor: Actor) -> None:
    _allocate(actor, actor.random.choice((0, KEEP_SIZE)))


@kind(2)
def punch(actor: Actor) -> None:
    _allocate(actor, PUNCH_HOLE | KEEP_SIZE, actor.random.choice((1, PAGE)))


@kind(2)
def zero(actor: Actor) -> None:
    _allocate(actor, ZERO_RANGE | actor.random.choice((0, KEEP_SIZE)))


@kind(2)
def collapse(actor: Actor) -> None:
    _allocate(actor, COLLAPSE, PAGE)


@kind(2)
def insert(actor: Actor) -> None:
    _allocate(actor, INSERT, PAGE)


@kind(1)
def unshare(actor: Actor) -> None:
    _allocate(actor, syscalls.UNSHARE)
