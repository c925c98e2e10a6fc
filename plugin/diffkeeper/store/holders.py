"""Who relies on objects that no commit refers to yet."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Holders:
    """A token for each caller inside `holding`, from any thread; a collection waits for them."""

    def __init__(self) -> None:
        self._tokens: set[object] = set()
        self._changed = threading.Condition()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """The caller is one of them inside the block; it waits for nobody."""
        token = object()
        with self._changed:
            self._tokens.add(token)
        try:
            yield
        finally:
            with self._changed:
                self._tokens.discard(token)
                self._changed.notify_all()

    def now(self) -> frozenset[object]:
        """Those that are inside now."""
        with self._changed:
            return frozenset(self._tokens)

    def wait(self, awaited: frozenset[object], seconds: float) -> bool:
        """Wait until none of them is inside any more; false when the time is over."""
        with self._changed:
            return self._changed.wait_for(lambda: self._tokens.isdisjoint(awaited), seconds)
