"""The table at the end."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from survive.chaos import Kill
    from survive.figures import Snapshot
    from survive.restores import Restored
    from survive.wipe import Wipe


@dataclass(slots=True)
class Result:
    """All that one run found; `problems` is empty when every promise was kept."""

    kills: list[Kill] = field(default_factory=list)
    acknowledged: int = 0
    disconnects: int = 0
    lost: int = 0
    amcheck: str = ""
    wipes: list[Wipe] = field(default_factory=list)
    restored: list[Restored] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    metrics_url: str = ""
    metrics: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def spread(values: Sequence[float], unit: str) -> str:
    """'min / median / max' of the values; a dash where there are none."""
    if not values:
        return "-"
    figures = (min(values), statistics.median(values), max(values))
    return " / ".join(f"{value:,.1f}" for value in figures) + f" {unit}"


def _bytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def _kill_rows(result: Result) -> list[tuple[str, str]]:
    kinds = sorted({kill.victim for kill in result.kills})
    each = [f"{sum(k.victim is kind for k in result.kills)} {kind}" for kind in kinds]
    rows = [
        ("kills (SIGKILL)", f"{len(result.kills)}" + (f": {', '.join(each)}" if each else "")),
        ("acknowledged commits", f"{result.acknowledged:,}"),
        ("connections lost and made again", f"{result.disconnects:,}"),
        ("lost commits after the kills", str(result.lost)),
        ("pg_amcheck --heapallindexed", result.amcheck or "-"),
    ]
    for kind in kinds:
        times = [kill.answered_ms for kill in result.kills if kill.victim is kind]
        rows.append((f"{kind} killed: answers again", spread(times, "ms")))
    volume = [kill.volume_ms for kill in result.kills if kill.volume_ms is not None]
    return [*rows, ("volume ready (the plugin's figure)", spread(volume, "ms"))]


def _wipe_rows(wipe: Wipe) -> list[tuple[str, str]]:
    wiped = "live directory wiped" + (" without warning" if wipe.sudden else "")
    lost = len(wipe.finding.lost)
    young = lost - wipe.too_old
    which = "all of them" if young == lost else f"{young} of them"
    younger = f"{which} younger than the last snapshot"
    volume = f"{wipe.kill.volume_ms:,.1f} ms" if wipe.kill.volume_ms is not None else "-"
    return [
        (wiped, f"snapshot {wipe.snapshot.seq}: {wipe.kind}"),
        ("lost commits after the wipe", f"{lost:,}" + (f", {younger}" if lost else "")),
        ("wipe: volume ready / answers again", f"{volume} / {wipe.kill.answered_ms:,.1f} ms"),
        ("wipe: pg_amcheck --heapallindexed", wipe.amcheck),
    ]


def _snapshot_rows(snapshots: Sequence[Snapshot]) -> list[tuple[str, str]]:
    crash = sum(each.consistency == "crash" for each in snapshots)
    freezes = [each.freeze_ms for each in snapshots if each.freeze_ms > 0]
    return [
        ("snapshots", f"{len(snapshots):,}: {crash:,} crash, {len(snapshots) - crash:,} fuzzy"),
        ("freeze", spread(freezes, "ms")),
        ("new bytes captured", _bytes(sum(each.new_bytes for each in snapshots))),
        ("bytes stored for them", _bytes(sum(each.stored_bytes for each in snapshots))),
    ]


def table(result: Result) -> Table:
    """The run's figures; times are min / median / max."""
    made = Table(title="Postgres survives kill -9", title_justify="left", show_header=False)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    rows = _kill_rows(result)
    for wipe in result.wipes:
        rows += _wipe_rows(wipe)
    if result.restored:
        good = sum(each.good for each in result.restored)
        rows.append(
            ("restored snapshots, started and checked", f"{good} of {len(result.restored)} good")
        )
    if result.snapshots:
        rows += _snapshot_rows(result.snapshots)
    rows += [("trouble, as the plugin says", each) for each in result.troubles]
    rows.append(("result", "; ".join(result.problems) or "every promise kept"))
    for name, value in rows:
        made.add_row(name, value)
    return made


def metrics(result: Result) -> list[str]:
    """The metrics page's lines, under a heading; nothing where there is no such page."""
    if not result.metrics:
        return []
    return [f"{result.metrics_url} since the plugin's last start:", *result.metrics]
