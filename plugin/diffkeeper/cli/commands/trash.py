"""`diffkeeper trash`: the removed volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.cli import output
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import ask
from diffkeeper.messages.trash import TRASH
from diffkeeper.volumes.units import format_size

if TYPE_CHECKING:
    import argparse

    from diffkeeper.messages.trash import TrashView


def run(arguments: argparse.Namespace) -> int:
    """List the removed volumes."""
    return output.give(arguments, ask(arguments, TRASH), _show)


def _show(found: list[TrashView]) -> None:
    headers = ("volume", "id", "removed", "deleted for good", "size", "snapshots", "live directory")
    output.print_table(headers, [_row(each) for each in found])


def _row(each: TrashView) -> list[object]:
    live = "kept: not captured whole" if each.live else "-"
    size = format_size(each.bytes)
    return [each.name, each.id, each.removed, each.purge, size, each.snapshots, live]


COMMAND = Command("trash", "list the removed volumes", run)
