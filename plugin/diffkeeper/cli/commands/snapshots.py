"""`diffkeeper snapshots`: the history of one volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.cli import output
from diffkeeper.cli.command import Command, add_volume
from diffkeeper.cli.connection import ask
from diffkeeper.messages.snapshots import SNAPSHOTS
from diffkeeper.volumes.names import check_name
from diffkeeper.volumes.units import format_size

if TYPE_CHECKING:
    import argparse

    from diffkeeper.messages.snapshots import SnapshotView


def run(arguments: argparse.Namespace) -> int:
    """List the snapshots of a volume, oldest first."""
    answer = ask(arguments, SNAPSHOTS, name=check_name(arguments.volume))
    return output.give(arguments, answer, show)


def show(found: list[SnapshotView]) -> None:
    """Snapshots as a table."""
    headers = ["seq", "time", "consistency", "reason", "files", "size", "new", "freeze", "root"]
    rows = [_row(each) for each in found]
    if any(each.group for each in found):
        headers.append("group")
        rows = [[*row, each.group or "-"] for row, each in zip(rows, found, strict=True)]
    if any(each.tags for each in found):
        headers.append("tags")
        rows = [[*row, ", ".join(each.tags) or "-"] for row, each in zip(rows, found, strict=True)]
    output.print_table(headers, rows)


def _row(each: SnapshotView) -> list[object]:
    described = [each.seq, each.time, each.consistency, each.reason, each.files]
    sizes = [format_size(each.bytes), format_size(each.new_bytes)]
    return [*described, *sizes, f"{each.freeze_ms:.1f}ms", each.root[:12]]


COMMAND = Command("snapshots", "list the snapshots of a volume, oldest first", run, add_volume)
