"""What a person sees: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from types import TracebackType

LINES_SHOWN = 12
REFRESH_PER_SECOND = 5


@dataclass(slots=True)
class Progress:
    """The numbers that the live view shows; written by the run, read by the screen."""

    started: float = field(default_factory=time.monotonic)
    kills: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    count: int = 0
    lost: int = 0
    snapshots: int = 0
    stage: str = "starting"


class Screen:
    """Prints each event; on a terminal below a view that renews itself."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.progress = Progress()
        self._lines: deque[str] = deque(maxlen=LINES_SHOWN)
        self._live: Live | None = None

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self._live = Live(
                get_renderable=self._view,
                console=self.console,
                refresh_per_second=REFRESH_PER_SECOND,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()
            self._live = None
            # The view has gone with its lines; the last of them stay readable.
            for line in self._lines:
                self.console.print(line, markup=False)

    def say(self, line: str) -> None:
        """One event, with the seconds since the start."""
        told = f"{time.monotonic() - self.progress.started:6.1f} s  {line}"
        self._lines.append(told)
        if not self._live:
            self.console.print(told, markup=False)

    def stage(self, name: str) -> None:
        """The run enters another part."""
        self.progress.stage = name
        self.say(name)

    def _view(self) -> Group:
        now = self.progress
        table = Table.grid(padding=(0, 3))
        seconds = time.monotonic() - now.started
        kills = ", ".join(f"{count} {name}" for name, count in sorted(now.kills.items()))
        for name, value in (
            ("stage", f"{now.stage}, {seconds:.0f} s"),
            ("kills", f"{sum(now.kills.values())}" + (f" ({kills})" if kills else "")),
            ("commits acknowledged", f"{now.acknowledged:,}"),
            ("rows counted", f"{now.count:,}"),
            ("lost", str(now.lost)),
            ("snapshots", f"{now.snapshots:,}"),
        ):
            style = "bold red" if name == "lost" and now.lost else "bold"
            table.add_row(Text(name), Text(value, style=style))
        return Group(
            Text("Postgres survives kill -9", style="bold"), table, *map(Text, self._lines)
        )
