"""The troubles of one volume: conditions that need a person."""

from __future__ import annotations

import threading


class Troubles:
    """The troubles of one volume, each under a name that its reporter chooses. Thread safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: dict[str, str] = {}

    def begin(self, name: str, text: str) -> None:
        """Set the trouble of this name, replacing an earlier text."""
        with self._lock:
            self._texts[name] = text

    def end(self, *names: str) -> None:
        """Clear the troubles of these names."""
        with self._lock:
            for name in names:
                self._texts.pop(name, None)

    def get(self, name: str) -> str | None:
        """The trouble of this name, or None."""
        with self._lock:
            return self._texts.get(name)

    def texts(self) -> list[str]:
        """All troubles, oldest first."""
        with self._lock:
            return list(self._texts.values())
