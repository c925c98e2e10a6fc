"""What is wrong with one volume, as it is shown."""

from __future__ import annotations

import threading


class Troubles:
    """What is wrong with one volume, each under the name of what met it. Thread safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: dict[str, str] = {}

    def begin(self, name: str, text: str) -> None:
        """It is so from now on, in the place of what was told under this name before."""
        with self._lock:
            self._texts[name] = text

    def end(self, *names: str) -> None:
        """These are no more, if they were."""
        with self._lock:
            for name in names:
                self._texts.pop(name, None)

    def get(self, name: str) -> str | None:
        """What is wrong under this name."""
        with self._lock:
            return self._texts.get(name)

    def texts(self) -> list[str]:
        """All of it, the first one first."""
        with self._lock:
            return list(self._texts.values())
