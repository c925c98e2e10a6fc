"""A gate for many transactions, or one change of the map or the file."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from diffkeeper.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Gate:
    """Lets many transactions in, or one resize."""

    def __init__(self, inside_max: int) -> None:
        self._condition = threading.Condition()
        self._inside, self._inside_max = 0, inside_max
        self._closed = False
        self._finished = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Enter the gate; waits while it is closed. BusyError once it is shut for good."""
        with self._condition:
            while self._closed or self._inside >= self._inside_max:
                if self._finished:
                    break
                self._condition.wait()
            if self._finished:
                raise BusyError("the store is closed")
            self._inside += 1
        try:
            yield
        finally:
            with self._condition:
                self._inside -= 1
                self._condition.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Close the gate, and wait until nobody is inside; never call it from inside."""
        with self._condition:
            while self._closed:
                self._condition.wait()
            self._closed = True
            while self._inside:
                self._condition.wait()
        try:
            yield
        finally:
            with self._condition:
                self._closed = False
                self._condition.notify_all()

    def finish(self) -> bool:
        """Shut the gate for good when nobody is inside; false when it was shut before."""
        with self.exclusive(), self._condition:
            first, self._finished = not self._finished, True
            return first
