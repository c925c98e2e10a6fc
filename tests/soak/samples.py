"""What is looked at every ten seconds, and when it is a finding."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.docker.managed import ManagedPlugin

TICKS: Final = os.sysconf("SC_CLK_TCK")
MIB: Final = 1 << 20
AGE_INTERVALS_MAX: Final = 10
IDLE_MIN: Final = 0.2
FUZZY: Final = "more had changed than could be copied within the freeze limit"
# Name of a figure to what it may grow by, as a share and in its own unit, after the warm-up. What
# databases hold grows, and a store with it: its size is judged by what a MiB of theirs takes.
GROWTH: Final = {
    "used_by_mib": (0.25, 0.2),
    "file_by_mib": (0.25, 0.5),
    "anonymous_mib": (0.3, 50.0),
    "descriptors": (0.2, 20.0),
    "threads": (0.2, 6.0),
}
# The same for a run that ends before the plugin's caches and its allocator's arenas are full, which
# takes some ten minutes after its last death: what it has in two hours is what is bounded.
SETTLING: Final = {"anonymous_mib": (0.3, 150.0)}
SETTLED_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class PluginSample:
    """One look at the plugin."""

    at: float
    live_mib: float
    used_mib: float
    file_mib: float
    anonymous_mib: float
    descriptors: float
    threads: float
    cpu_seconds: float
    idle: float
    age_max: float
    freeze_ms_max: float
    troubles: tuple[str, ...]
    ages: dict[str, float]

    @property
    def used_by_mib(self) -> float:
        """Bytes that the store uses for a byte of live data."""
        return self.used_mib / max(1.0, self.live_mib)

    @property
    def file_by_mib(self) -> float:
        """Bytes that its file takes for a byte of live data."""
        return self.file_mib / max(1.0, self.live_mib)

    @classmethod
    def names(cls) -> list[str]:
        """The figures that are drawn."""
        return [each.name for each in fields(cls) if each.name not in ("at", "troubles", "ages")]


class Sampler:
    """Takes samples of one plugin."""

    def __init__(self, plugin: ManagedPlugin, volumes: Sequence[str]) -> None:
        self._plugin = plugin
        self._volumes = volumes
        self._began = time.monotonic()
        self._cpu = _machine()

    def take(self) -> PluginSample:
        """Now. Raises OSError while the plugin is away."""
        plugin = self._plugin
        stats = plugin.request("GET", "/v1/stats")
        proc = Path("/proc", str(plugin.pid))
        status = dict(
            line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line
        )
        cpu = (proc / "stat").read_text().rpartition(")")[2].split()
        newest = {name: self._newest(name) for name in self._volumes}
        before, self._cpu = self._cpu, _machine()
        total = self._cpu[1] - before[1]
        return PluginSample(
            at=time.monotonic() - self._began,
            live_mib=stats["logical_bytes"] / MIB,
            used_mib=stats["store_used_bytes"] / MIB,
            file_mib=stats["store_file_bytes"] / MIB,
            anonymous_mib=int(status["RssAnon"].split()[0]) / 1024,
            descriptors=len(os.listdir(proc / "fd")),
            threads=int(status["Threads"]),
            cpu_seconds=(int(cpu[11]) + int(cpu[12])) / TICKS,
            idle=(self._cpu[0] - before[0]) / total if total else 0.0,
            age_max=max(age for age, _ in newest.values()),
            freeze_ms_max=max(freeze for _, freeze in newest.values()),
            troubles=tuple(self._troubles()),
            ages={name: age for name, (age, _) in newest.items()},
        )

    def _newest(self, name: str) -> tuple[float, float]:
        """Age in seconds and length of the freeze in milliseconds of the newest snapshot."""
        status: dict[str, Any] = self._plugin.request("GET", f"/v1/volumes/{name}")["status"]
        last = status.get("last_snapshot")
        if not last:
            return 0.0, 0.0
        return max(0.0, time.time() - _seconds(last["time"])), float(last["freeze_ms"])

    def _troubles(self) -> list[str]:
        return [
            f"{finding['name']}: {finding['found']}"
            for finding in self._plugin.request("GET", "/v1/doctor")
            if finding["result"] == "fail"
        ]


def _seconds(text: str) -> float:

    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _machine() -> tuple[float, float]:
    """Idle and total ticks of the machine."""
    numbers = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return float(numbers[3] + numbers[4]), float(sum(numbers))


def grown(samples: Sequence[PluginSample], warm_up: float) -> list[str]:
    """Figures that grew from the first to the last third after the warm-up."""
    after = [sample for sample in samples if sample.at >= warm_up]
    third = len(after) // 3
    if third < 3:
        return []
    found = []
    allowed = GROWTH | (SETTLING if warm_up < SETTLED_SECONDS else {})
    for name, (share, amount) in allowed.items():
        early = statistics.median(getattr(sample, name) for sample in after[:third])
        late = statistics.median(getattr(sample, name) for sample in after[-third:])
        if late > early * (1 + share) + amount:
            found.append(f"{name} grew from {early:.2f} to {late:.2f}")
    return found


def avoidable(sample: PluginSample) -> list[str]:
    """Troubles, but for what no program can help that gets no processor: to copy all that changed
    within the time that writers may be frozen.
    """
    starved = sample.idle < IDLE_MIN
    return [text for text in sample.troubles if not (starved and FUZZY in text)]


def stale(sample: PluginSample, interval: float) -> list[str]:
    """Volumes whose newest snapshot is too old although the machine has time for one."""
    if sample.idle < IDLE_MIN:
        return []
    return [
        f"the newest snapshot of {name} is {age:.0f} s old while {sample.idle:.0%} of the machine"
        " is idle"
        for name, age in sample.ages.items()
        if age > AGE_INTERVALS_MAX * interval
    ]


def table(samples: Sequence[PluginSample]) -> str:
    """Least, median and greatest of each figure, as Markdown."""
    lines = ["| figure | least | median | greatest |", "|---|---|---|---|"]
    for name in PluginSample.names():
        values = [float(getattr(sample, name)) for sample in samples]
        low, middle, high = min(values), statistics.median(values), max(values)
        lines.append(f"| {name} | {low:.1f} | {middle:.1f} | {high:.1f} |")
    return "\n".join(lines)


def picture(samples: Sequence[PluginSample]) -> str:
    """One curve above the other, as SVG."""
    wide, high, names = 720, 70, PluginSample.names()
    end = max(sample.at for sample in samples) or 1.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide + 220} {high * len(names)}"'
        ' font-family="sans-serif" font-size="12">'
        '<rect width="100%" height="100%" fill="#fff"/>'
    ]
    for row, name in enumerate(names):
        values = [float(getattr(sample, name)) for sample in samples]
        top = max(values) or 1.0
        base = high * (row + 1) - 12
        points = " ".join(
            f"{wide * sample.at / end:.1f},{base - (high - 24) * value / top:.1f}"
            for sample, value in zip(samples, values, strict=True)
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="#15616d"/>'
            f'<line x1="0" x2="{wide}" y1="{base}" y2="{base}" stroke="#ccc"/>'
            f'<text x="{wide + 8}" y="{base - 20}">{name}: at most {top:.1f}</text>'
        )
    return "\n".join([*parts, "</svg>"])
