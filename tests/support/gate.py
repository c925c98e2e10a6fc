"""Holds real work up until a test lets it go on."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS_MAX = 20.0


class WorkGate:
    """`entered` is set once work is held up; `inside` counts how often; `opened` lets it go on."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.inside = threading.Semaphore(0)
        self.opened = threading.Event()

    def pass_through(self) -> None:
        """Work for a thread: held up here."""
        self.held(lambda: None)()

    def held(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def wait(*arguments: Any, **named: Any) -> Any:
            self.entered.set()
            self.inside.release()
            assert self.opened.wait(SECONDS_MAX)
            return real(*arguments, **named)

        return wait
