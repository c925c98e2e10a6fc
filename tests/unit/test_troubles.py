"""Troubles of a volume are read while threads report and end them."""

from __future__ import annotations

import itertools
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from diffkeeper.volumes.troubles import Troubles

if TYPE_CHECKING:
    from collections.abc import Iterator

THREADS = 3
READS = 20_000


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
def test_they_are_read_while_they_come_and_go() -> None:
    troubles, ended = Troubles(), threading.Event()
    troubles.begin("always", "first")

    def report(who: int) -> None:
        for number in itertools.count():
            name = f"{who} {number % 7}"
            troubles.begin(name, "later")
            troubles.end(f"{who} {(number + 3) % 7}", "never reported")
            if ended.is_set():
                return

    threads = [threading.Thread(target=report, args=(who,)) for who in range(THREADS)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(READS):
            first, *others = troubles.texts()
            assert first == "first"
            assert set(others) <= {"later"}
            assert len(others) <= 7 * THREADS
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    troubles.begin("always", "replaced")
    assert troubles.texts()[0] == troubles.get("always") == "replaced"
