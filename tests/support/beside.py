"""Something that goes on beside a test."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def beside(act: Callable[[int], None], pause_seconds: float = 0.0) -> Iterator[None]:
    """Acts over and over on a thread of its own, with a number that grows from 1; no error of it is
    lost.
    """
    ended = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            try:
                act(number)
            except BaseException as error:
                failures.append(error)
                return
            if pause_seconds:
                time.sleep(pause_seconds)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert failures == []
