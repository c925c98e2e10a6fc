"""What the plugin itself says: `docker volume inspect`, the command line, the metrics page."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from survive import plugin
from survive.command import command
from survive.settings import DemoError

if TYPE_CHECKING:
    from survive.engine import Postgres

METRICS_BYTES_MAX = 4 << 20
METRICS_SECONDS_MAX = 10.0
SHOWN = (
    "diffkeeper_recovery_total",
    "diffkeeper_delta_count",
    "diffkeeper_recovery_seconds_count",
    "diffkeeper_recovery_seconds_sum",
    "diffkeeper_freeze_seconds_count",
    "diffkeeper_freeze_seconds_sum",
    "diffkeeper_store_used_bytes",
    "diffkeeper_trouble",
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One line of `diffkeeper snapshots --json`, as far as the demo needs it."""

    seq: int
    time_ns: int
    consistency: str
    reason: str
    new_bytes: int
    stored_bytes: int
    freeze_ms: float


def nanoseconds(text: str) -> int:
    """An RFC 3339 time as nanoseconds since 1970, with no rounding."""
    found = re.fullmatch(r"([^.]*?)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", text)
    if not found:
        raise DemoError(f"not a time: {text!r}")
    whole, digits, zone = found.groups()
    second = datetime.fromisoformat(whole + zone.replace("Z", "+00:00"))
    return int(second.timestamp()) * 10**9 + int((digits or "").ljust(9, "0"))


class Figures:
    """Questions to the plugin; for a plain volume all answers are empty."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._settings = postgres.settings

    def _ask(self, *args: str) -> Any:
        """The answer of `diffkeeper ARGS --json`."""
        return json.loads(command([*plugin.cli(self._settings), *args, "--json"]))

    def status(self) -> dict[str, Any]:
        """The volume's `Status`, as `docker volume inspect` shows it."""
        found = self._postgres.volume().get("Status")
        return found if isinstance(found, dict) else {}

    def recovery_ms(self) -> float | None:
        """How long the plugin took to make the volume ready at the last mount."""
        recovery = self.status().get("last_recovery")
        return float(recovery["ms"]) if isinstance(recovery, dict) else None

    def recovery_kind(self) -> str:
        """What the plugin did at the last mount, in its own word."""
        recovery = self.status().get("last_recovery")
        return str(recovery["kind"]) if isinstance(recovery, dict) else "none"

    def mounts(self) -> int:
        """How many mounts the plugin counts for the volume."""
        return int(self._ask("inspect", self._settings.volume)["mounts"])

    def live(self) -> str:
        """The volume's live directory as the host sees it; raises DemoError if it is not told."""
        path = str(self.status().get("live", ""))
        _, found, below = path.partition("/volumes/")
        if not found:
            raise DemoError(f"the plugin does not say where the live directory is: {path!r}")
        return str(plugin.state_directory() / "volumes" / below)

    def snapshots(self) -> list[Snapshot]:
        """All snapshots of the volume, oldest first."""
        if not self._settings.managed:
            return []
        return [
            Snapshot(
                seq=int(each["seq"]),
                time_ns=nanoseconds(each["time"]),
                consistency=str(each["consistency"]),
                reason=str(each["reason"]),
                new_bytes=int(each["new_bytes"]),
                stored_bytes=int(each["stored_bytes"]),
                freeze_ms=float(each["freeze_ms"]),
            )
            for each in self._ask("snapshots", self._settings.volume)
        ]

    def metrics(self) -> list[str]:
        """The metrics page's lines that the demo shows; raises DemoError if it is not there."""
        url = plugin.metrics_url()
        try:
            with urllib.request.urlopen(url, timeout=METRICS_SECONDS_MAX) as answer:
                text = answer.read(METRICS_BYTES_MAX).decode()
        except (OSError, urllib.error.URLError) as error:
            raise DemoError(f"{url} gives no answer: {error}") from None
        return [line for line in text.splitlines() if line.startswith(SHOWN)]
